"""Devices of a node: an adapter for each source of samples, and their publication."""
