"""Fetching: files of waiting models, copied or downloaded to nodes that can run them."""
