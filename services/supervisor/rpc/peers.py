"""Who is at the other end of a loopback connection, as far as the system tells."""

import os
import sys
from pathlib import Path

_TABLE = Path("/proc/net/tcp")


def is_ours(peer_port: int, own_port: int) -> bool:
    """Whether a process of our user opened the connection. Where the system does not tell, it is believed."""
    if sys.platform != "linux":
        return True
    owners = _owners(_TABLE.read_text(), peer_port, own_port)
    return bool(owners) and owners <= {os.getuid()}


def _owners(table: str, local_port: int, remote_port: int) -> set[int]:
    """The users of the sockets of 127.0.0.1 with these two ports; the table is the kernel's."""
    ends = (f"0100007F:{local_port:04X}", f"0100007F:{remote_port:04X}")
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[7]) for row in rows if (row[1], row[2]) == ends}
