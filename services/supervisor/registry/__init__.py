"""The registry: models and groups, every change checked against all of them."""
