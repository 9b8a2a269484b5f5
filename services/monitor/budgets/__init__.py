"""Budgets: limits on usage, with running totals."""
