"""The languages that clients speak."""
