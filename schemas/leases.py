"""Leases: exclusive work on something, for as long as the holder renews it."""

from schemas.base import Record

SCHEDULER = "scheduler"
"""The lease of the one supervisor that schedules."""


class Lease(Record):
    """The holder of a lease; it expires with its key."""

    holder: str
    epoch: int = 0
    """For the scheduler: the revision with which it took over. Nodes take nothing from those before."""
