"""Webhooks: events of the yard delivered to URLs and programs, at least once, across restarts."""
