"""OpenAI's Files and Batches: many requests, answered while no other request needs the slots."""
