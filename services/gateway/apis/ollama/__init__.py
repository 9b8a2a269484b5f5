"""Ollama's API, translated to the inference path that all APIs share."""
