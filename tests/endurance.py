"""How often what must always hold is tried: a few times in every run, often by `make endurance`."""

import os

LONG = bool(os.environ.get("YARD_ENDURANCE"))


def rounds(few: int, many: int) -> int:
    """`many` only where somebody has the time."""
    return many if LONG else few
