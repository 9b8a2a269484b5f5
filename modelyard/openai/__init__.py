"""OpenAI's wire formats, as client, gateway and runner read them: event streams, chunks, errors."""
