"""How long to wait before a model that failed to start is tried again."""

FIRST_S = 2.0
LONGEST_S = 60.0


def pause_s(failures: int) -> float:
    """Seconds to wait after `failures` failed starts in a row: 2, 4, 8, … 60."""
    return min(FIRST_S * 2 ** max(failures - 1, 0), LONGEST_S) if failures else 0.0
