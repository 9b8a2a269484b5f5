"""Metrics: collected every second, with a history of a day, for Prometheus, OpenTelemetry and alerts."""
