"""Selects the files of the model that a reference names from a repository's listing. Pure."""
