"""The gateway's half of the inference path."""
