"""The agent of a node: its processes, its memory, and how it could run a model."""
