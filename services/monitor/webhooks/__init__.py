"""Webhooks: events of the yard told to URLs and programs, at least once, whoever dies."""
