"""The typed message bus over NATS: connection, commands, state and streams."""
