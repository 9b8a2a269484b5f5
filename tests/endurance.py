"""Repetitions of tests of invariants: few in every run, many with `make endurance`."""

import os

LONG = bool(os.environ.get("YARD_ENDURANCE"))


def rounds(few: int, many: int) -> int:
    """`many` with `make endurance`."""
    return many if LONG else few
