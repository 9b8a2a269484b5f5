"""GGUF files: what a header says, and how much memory llama.cpp will take for it. Weights are never read."""
