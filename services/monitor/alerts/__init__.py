"""Alerts: rules over samples, evaluated by a pure function; each change is published exactly once."""
