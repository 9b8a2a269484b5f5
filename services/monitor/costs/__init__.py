"""Costs of models: prices with their validity, exact amounts, metering and repricing."""
