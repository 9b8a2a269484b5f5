"""Who takes part, and how long an answer may take."""

from schemas.roles import Role

GATEWAY, DOWNLOADER, SUPERVISOR = Role.GATEWAY, Role.DOWNLOADER, Role.SUPERVISOR
RUNNER, MONITOR, OPERATOR = Role.RUNNER, Role.MONITOR, Role.OPERATOR
WATCHERS = (GATEWAY, OPERATOR)
CALLERS = (GATEWAY, OPERATOR)
FETCHERS = (*CALLERS, SUPERVISOR)
"""Who may have files brought to a node: the scheduler, too."""
AUDITING = (DOWNLOADER, SUPERVISOR, MONITOR)
"""Who serves commands that change something."""
LONG_S, VERY_LONG_S = 30.0, 600.0
DRAIN_S = 60.0
"""Commands that wait until instances are drained and stopped are answered within this time."""
HUB_S = 60.0
"""Commands that ask the hub first."""
DISK_S = 30.0
"""Commands that move many files are answered within this time."""
