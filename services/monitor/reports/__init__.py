"""Questions about usage, kept under a name."""
