"""Model files: GGUF and safetensors headers, the memory models need, tiny models for tests and the demo."""
