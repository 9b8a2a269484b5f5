"""Files between nodes: what this one has is given to others, and what it wants is asked of them first."""
