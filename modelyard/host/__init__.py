"""This machine: settings, home, credentials, processes, paths and the broker."""
