"""Ollama's API, for the many clients that speak only that: translated, never a second way to a model."""
