"""The APIs of the gateway: OpenAI's and Ollama's over HTTP, OpenAI's over NATS."""
