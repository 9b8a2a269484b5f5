"""Tiny models with hand-set weights, for tests and for the demo model.

Each is a GGUF file that a real engine loads in milliseconds; the same call always writes the same bytes.
"""

from modelyard.files.tinymodels.chat import DEMO_SENTENCE, write_babbler, write_reciter
from modelyard.files.tinymodels.encoders import write_embedder, write_reranker

__all__ = ["DEMO_SENTENCE", "write_babbler", "write_embedder", "write_reciter", "write_reranker"]
