"""Chat through the gateway with the OpenAI library: pip install openai; python examples/chat_openai.py."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("YARD_URL", "http://127.0.0.1:8080") + "/v1", api_key="any")
stream = client.chat.completions.create(
    model="demo", messages=[{"role": "user", "content": "Hello!"}], stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
