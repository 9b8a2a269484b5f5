"""The Hugging Face hub through its own library: repositories, search, and its refusals as errors.

All modules but `metadata` load that library, 10 MiB that a service at rest does without.
"""
