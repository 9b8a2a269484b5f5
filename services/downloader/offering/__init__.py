"""What the hub has, told with what this yard makes of it: what is here already, and what fits where."""
