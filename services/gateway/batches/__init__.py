"""OpenAI's Files and Batches: many requests, made when nobody else needs the slots."""
