"""Leases: who works on something, for as long as the holder renews it."""

from schemas.base import Record

SCHEDULER = "scheduler"
"""The lease of the one supervisor that decides who runs where."""


class Lease(Record):
    """Who works on something, for as long as the key lives."""

    holder: str
    epoch: int = 0
    """For the scheduler: the revision with which it took over. Nodes take nothing from those before."""
