"""GGUF files: their headers, and the memory llama.cpp takes for a model. Weights are never read."""
