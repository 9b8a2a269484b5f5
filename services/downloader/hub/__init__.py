"""The Hugging Face hub through its own library, 10 MiB that are loaded at the first use."""
