"""Files between nodes: each serves its own to others, and transfers try other nodes before the hub."""
