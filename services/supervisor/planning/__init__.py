"""Placement decisions: pure functions over a snapshot of the yard."""
