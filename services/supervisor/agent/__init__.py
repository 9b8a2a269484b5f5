"""The agent of a node: its processes, its memory, and the ways it could run a model."""
