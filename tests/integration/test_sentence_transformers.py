"""The sentence-transformers engine with tiny random models, if the package is installed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from modelyard.host.settings import load
from schemas.instances import PlacedDevice, Placement
from schemas.models import Mode, ModelSpec
from services.supervisor.engines.selection import check_files, choose_engine

# Importing the package takes many seconds.
missing = find_spec("sentence_transformers") is None
pytestmark = pytest.mark.skipif(missing, reason="sentence-transformers is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "there", "query", "a", "b", "c"]
ON_CPU = Placement(devices=(PlacedDevice(device="cpu"),))


def write_bert(folder: Path, kind: str) -> None:
    """A random BERT with a vocabulary of twelve words; written in another process, since torch is large."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    program = f"""
import sys, transformers
config = transformers.BertConfig(
    vocab_size={len(WORDS)}, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=64, max_position_embeddings=64, num_labels=1,
)
transformers.{kind}(config).save_pretrained(sys.argv[1])
transformers.BertTokenizerFast(sys.argv[1] + "/vocab.txt").save_pretrained(sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def server(home: Path, mode: Mode) -> Iterator[str]:
    """The server as a runner starts it."""
    settings = load({"YARD_HOME": str(home)})
    spec = ModelSpec(name="org/m", path="m", mode=mode)
    engine = choose_engine(spec, settings)
    files = check_files(spec, settings.models, engine)
    command = engine.command(spec, files, ON_CPU, 0, settings)
    environment = {**command.env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command.argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ports = (engine.parse_port(line) for line in process.stderr)
            yield f"http://127.0.0.1:{next(port for port in ports if port is not None)}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def post(url: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_vectors_of_a_real_model(tmp_path: Path) -> None:
    write_bert(tmp_path / "models/m", "BertModel")
    with server(tmp_path, Mode.EMBEDDING) as url:
        both = post(f"{url}/v1/embeddings", {"input": ["hello world", "a b c"]})
        alone = post(f"{url}/v1/embeddings", {"input": "hello world", "dimensions": 8})
    first = both["data"][0]["embedding"]
    assert len(first) == 32
    assert sum(number**2 for number in first) == pytest.approx(1, abs=1e-5)
    assert both["usage"]["prompt_tokens"] == (2 + 2) + (3 + 2)
    cut = alone["data"][0]["embedding"]
    length = sum(number**2 for number in first[:8]) ** 0.5
    assert cut == pytest.approx([number / length for number in first[:8]], abs=1e-4)


def test_scores_of_a_real_model(tmp_path: Path) -> None:
    write_bert(tmp_path / "models/m", "BertForSequenceClassification")
    with server(tmp_path, Mode.RERANK) as url:
        answer = post(f"{url}/v1/rerank", {"query": "hello", "documents": ["world", "there there"]})
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {result["index"] for result in answer["results"]} == {0, 1}
    assert all(0 < score < 1 for score in scores)
    assert answer["usage"]["prompt_tokens"] == (1 + 1 + 3) + (1 + 2 + 3)
