"""The server process of the engine sentence-transformers: embeddings and reranking over HTTP."""
