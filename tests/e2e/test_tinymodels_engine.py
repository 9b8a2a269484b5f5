"""The tiny models in llama.cpp's server, run in a child process."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelyard.files.tinymodels import (
    DEMO_SENTENCE,
    write_babbler,
    write_embedder,
    write_reciter,
    write_reranker,
)

# The engine exits at the end of its standard input, so it never outlives the test run.
ENGINE = """
import json, os, sys
import xllamacpp
path, settings = sys.argv[1], json.loads(sys.argv[2])
params = xllamacpp.CommonParams()
params.model.path = path
params.hostnames = ["127.0.0.1"]
params.port = 0
params.endpoint_slots = True
for name, value in settings.items():
    setattr(params, name, value)
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""
POOLING_RANK = 4
TIMEOUT_S = 20

Json = dict[str, Any]


@contextmanager
def engine(model: Path, **settings: object) -> Iterator[str]:
    """Serve the model; yield the server's address."""
    arguments = [sys.executable, "-c", ENGINE, str(model), json.dumps({"n_ctx": 4096, **settings})]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, f"the engine ended with {process.wait()}"
            wait_until(lambda: get(f"{address}/health") == {"status": "ok"})
            yield address
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Poll a condition that queries the engine over HTTP."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline


def get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def post(url: str, body: Json) -> Json:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        answer: Json = json.load(response)
        return answer


def stream(url: str, body: Json) -> Generator[Json, None, None]:
    request = urllib.request.Request(
        url, json.dumps({**body, "stream": True}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        for line in response:
            data = line.decode().strip().removeprefix("data: ")
            if data.startswith("{"):
                yield json.loads(data)


def message(role: str, content: object) -> Json:
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tinymodels")


@pytest.fixture(scope="module")
def reciter(folder: Path) -> Iterator[str]:
    write_reciter(folder / "reciter.gguf", DEMO_SENTENCE)
    with engine(folder / "reciter.gguf") as address:
        yield f"{address}/v1/chat/completions"


@pytest.fixture(scope="module")
def babbler(folder: Path) -> Iterator[str]:
    write_babbler(folder / "babbler.gguf")
    with engine(folder / "babbler.gguf", n_ctx=32768) as address:
        yield address


def only_choice(answer: Json) -> Json:
    (choice,) = answer["choices"]
    assert isinstance(choice, dict)
    return choice


def assert_recited(answer: Json, sentence: str = DEMO_SENTENCE) -> None:
    choice = only_choice(answer)
    assert choice["message"]["content"] == sentence
    assert choice["finish_reason"] == "stop"


def test_reciter_generates_its_sentence_and_stops(reciter: str) -> None:
    answer = post(reciter, {"messages": [message("user", "Hi!")], "temperature": 0})
    assert_recited(answer)
    assert answer["usage"]["completion_tokens"] == len(DEMO_SENTENCE.split()) + 1


def test_reciter_streams_one_word_at_a_time(reciter: str) -> None:
    chunks = [only_choice(chunk) for chunk in stream(reciter, {"messages": [message("user", "Hi!")]})]
    words = [chunk["delta"]["content"] for chunk in chunks if chunk["delta"].get("content")]
    assert "".join(words) == DEMO_SENTENCE
    assert [word.strip() for word in words] == DEMO_SENTENCE.split()
    assert chunks[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0}])
def test_reciter_generates_its_sentence_with_every_seed(reciter: str, seed: int, sampling: Json) -> None:
    assert_recited(post(reciter, {"messages": [message("user", "Hi!")], "seed": seed, **sampling}))


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([message("system", "Be brief."), message("user", "Hi!")], id="system"),
        pytest.param(
            [message("user", "Hi!"), message("assistant", DEMO_SENTENCE), message("user", "Again?")],
            id="second turn",
        ),
        pytest.param([message("user", "Grüße, 日本 👩‍🚀 \x07 \u2581 مرحبا")], id="unicode"),
        pytest.param([message("user", "Hello from Modelyard, your")], id="words of the sentence"),
        pytest.param([message("user", "")], id="empty"),
        pytest.param(
            [message("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], id="parts"
        ),
        pytest.param([message("user", "Hi! " * 900)], id="long"),
        pytest.param(
            [message("assistant", None), message("tool", "42"), message("user", "Hi!")], id="no content"
        ),
    ],
)
def test_reciter_answers_every_prompt_from_the_first_word(reciter: str, messages: list[Json]) -> None:
    assert_recited(post(reciter, {"messages": messages}))


def test_reciter_continues_an_interrupted_answer(reciter: str) -> None:
    words = DEMO_SENTENCE.split()
    for cut in range(1, len(words)):
        messages = [message("user", "Hi!"), message("assistant", " ".join(words[:cut]))]
        chunks = [only_choice(chunk) for chunk in stream(reciter, {"messages": messages})]
        rest = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
        assert rest == " " + " ".join(words[cut:])


def test_reciter_generates_a_sentence_with_repeated_words(folder: Path) -> None:
    sentence = "The yard keeps the models, the queue and the\nlogs: the models and the queue.  Done."
    write_reciter(folder / "repeating.gguf", sentence)
    with engine(folder / "repeating.gguf") as address:
        assert_recited(
            post(f"{address}/v1/chat/completions", {"messages": [message("user", "Hi!")]}), sentence
        )


def test_reciter_generates_a_long_text(folder: Path) -> None:
    text = " ".join(f"word{number}" for number in range(300))
    write_reciter(folder / "long.gguf", text)
    with engine(folder / "long.gguf") as address:
        assert_recited(post(f"{address}/v1/chat/completions", {"messages": [message("user", "Hi!")]}), text)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {}, {"temperature": 2, "top_k": 0, "min_p": 0}])
def test_babbler_generates_up_to_the_limit(babbler: str, sampling: Json) -> None:
    body = {"messages": [message("user", "Hi!")], "max_tokens": 50, **sampling}
    answer = post(f"{babbler}/v1/chat/completions", body)
    choice = only_choice(answer)
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 50
    assert choice["message"]["content"].replace(" ", "").isalpha()


def test_babbler_never_generates_an_end(babbler: str) -> None:
    body = {"messages": [message("user", "Hi!")], "max_tokens": 1000, "temperature": 1.5}
    assert post(f"{babbler}/v1/chat/completions", body)["usage"]["completion_tokens"] == 1000


def test_closing_the_stream_frees_the_slot(folder: Path) -> None:
    """The whole answer takes much longer than the slot may take to become free."""
    write_babbler(folder / "slow.gguf", n_embd=512, n_layer=2, n_ff=1024)
    with engine(folder / "slow.gguf", n_ctx=32768) as address:
        chunks = stream(f"{address}/v1/chat/completions", {"messages": [message("user", "Hi!")]})
        next(chunks)
        assert get(f"{address}/slots")[0]["is_processing"]
        chunks.close()
        wait_until(lambda: not get(f"{address}/slots")[0]["is_processing"], timeout_s=5)


def test_embedder_places_texts_with_shared_words_close_together(folder: Path) -> None:
    write_embedder(folder / "embedder.gguf")
    texts = ["fetch a model", "how to fetch the models", "bananas are yellow", "fetch a model", "日本"]
    with engine(folder / "embedder.gguf", embedding=True, n_ctx=512) as address:
        answer = post(f"{address}/v1/embeddings", {"input": texts})
    fetch, fetching, bananas, again, unknown = [entry["embedding"] for entry in answer["data"]]
    assert len(fetch) == 64
    assert fetch == pytest.approx(again)
    assert cosine(fetch, fetch) == pytest.approx(1)
    assert cosine(unknown, unknown) == pytest.approx(1)
    assert cosine(fetch, fetching) > 0.5 > 0.2 > cosine(fetch, bananas)


def cosine(one: list[float], other: list[float]) -> float:
    """Of two vectors of length one, as the engine returns them."""
    return sum(left * right for left, right in zip(one, other, strict=True))


def test_reranker_ranks_the_document_with_most_shared_words_first(folder: Path) -> None:
    write_reranker(folder / "reranker.gguf")
    documents = ["Bananas are yellow and sweet.", "How do I fetch a model?", "Fetch a model with yard pull."]
    settings = {"embedding": True, "pooling_type": POOLING_RANK, "n_ctx": 512}
    with engine(folder / "reranker.gguf", **settings) as address:
        answer = post(f"{address}/v1/rerank", {"query": "how do I fetch a model?", "documents": documents})
    scores = [result["relevance_score"] for result in answer["results"]]
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert scores[0] > 2 > 1 > scores[1] > 0 > scores[2]
