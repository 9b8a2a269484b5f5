"""Ports that are free, or a sentence that says which is not."""

import socket

from modelyard.up.child import CannotStart


def claim(host: str, port: int, setting: str) -> int:
    """`port` if it can be listened on, or any free one for 0; CannotStart with the way out if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port whose last user just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise CannotStart(f"{port} is not a port.") from error
        except OSError as error:
            raise CannotStart(
                f"Port {port} on {host} cannot be used ({error.strerror}); "
                f"set {setting} to a free port, or end the program that has it."
            ) from error
        return int(probe.getsockname()[1])
