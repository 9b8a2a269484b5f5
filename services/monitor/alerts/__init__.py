"""Alerts: rules over samples, evaluated by a pure function, kept so that no restart loses or doubles one."""
