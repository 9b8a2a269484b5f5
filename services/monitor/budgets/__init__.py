"""Budgets: running totals of what may be used."""
