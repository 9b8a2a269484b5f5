"""The runner: one process that owns one engine process, so that a supervisor's crash stops no model."""
