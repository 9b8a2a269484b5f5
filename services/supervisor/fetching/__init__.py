"""A model's files, brought to a node that could run it and lacks them."""
