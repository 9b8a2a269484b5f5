"""The Hugging Face hub through its own library: repositories, search, and its refusals as errors."""
