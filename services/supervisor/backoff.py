"""How long to wait before a model that failed is tried again."""

AFTER_CRASH_S = 1.0
"""After a crash of a model that had been ready: time for the gateways to give up what it was answering."""
FIRST_S = 2.0
LONGEST_S = 60.0


def pause_s(failures: int) -> float:
    """Seconds to wait after `failures` failed starts in a row: 1 (it had been ready), 2, 4, 8, … 60."""
    return min(FIRST_S * 2 ** (failures - 1), LONGEST_S) if failures else AFTER_CRASH_S
