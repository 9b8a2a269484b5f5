"""What a node computes on: one adapter for each way of asking about it."""
