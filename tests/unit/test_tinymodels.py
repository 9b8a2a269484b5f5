"""The files of the tiny models, without an engine."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.files.tinymodels import (
    DEMO_SENTENCE,
    write_babbler,
    write_embedder,
    write_reciter,
    write_reranker,
)
from modelyard.files.tinymodels.chat import split_sentence

Write = Callable[[Path], None]


def write_demo(path: Path) -> None:
    write_reciter(path, DEMO_SENTENCE)


WRITERS = {
    "llama-reciter": write_demo,
    "llama-babbler": write_babbler,
    "bert-embedder": write_embedder,
    "bert-reranker": write_reranker,
}
every_model = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


def contents(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None
    return field.contents()


@every_model
def test_the_same_call_writes_the_same_bytes(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "one.gguf")
    write(tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


@every_model
def test_a_model_is_below_one_megabyte_and_nothing_else_is_left(write: Write, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_text("an older file")
    write(target)
    assert 100_000 < target.stat().st_size < 1_000_000
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("kind", "write"), WRITERS.items(), ids=WRITERS.keys())
def test_metadata_names_architecture_name_and_file_type(kind: str, write: Write, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    architecture, name = kind.split("-")
    assert contents(reader, "general.architecture") == architecture
    assert contents(reader, "general.name") == f"Tiny {name.title()}"
    assert contents(reader, "general.file_type") == gguf.LlamaFileType.ALL_F32


@pytest.mark.parametrize("write", [write_demo, write_babbler])
def test_chat_models_carry_chatml_and_a_long_context(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert "<|im_start|>" in contents(reader, "tokenizer.chat_template")
    assert contents(reader, "llama.context_length") == 32768
    tokens = contents(reader, "tokenizer.ggml.tokens")
    assert tokens[contents(reader, "tokenizer.ggml.eos_token_id")] == "<|im_end|>"


def test_babbler_has_the_requested_size(tmp_path: Path) -> None:
    write_babbler(tmp_path / "model.gguf", n_embd=96, n_layer=3, n_ff=40)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert contents(reader, "llama.embedding_length") == 96
    assert contents(reader, "llama.block_count") == 3
    assert contents(reader, "llama.feed_forward_length") == 40


@pytest.mark.parametrize("size", [{"n_embd": 100}, {"n_embd": 0}, {"n_layer": 0}, {"n_ff": 0}])
def test_babbler_refuses_an_impossible_size(size: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        write_babbler(tmp_path / "model.gguf", **size)
    assert not list(tmp_path.iterdir())


def test_every_word_of_the_demo_sentence_is_its_own_piece() -> None:
    assert len(split_sentence(DEMO_SENTENCE)) == len(DEMO_SENTENCE.split())


def test_a_repeated_word_shares_a_piece_with_the_words_before_it() -> None:
    assert split_sentence("the queue and the runner and the engine") == [
        "the",
        " queue",
        " and the",
        " runner and the",
        " engine",
    ]


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1), st.sampled_from([" ", "\n", "  "]))
def test_pieces_differ_start_with_a_new_word_and_join_to_the_sentence(words: list[str], space: str) -> None:
    cut = split_sentence(space.join(words))
    assert "".join(cut) == space.join(words)
    assert [piece.split()[0] for piece in cut] == list(dict.fromkeys(words))


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1))
def test_a_prefix_of_the_sentence_is_split_the_same_way(words: list[str]) -> None:
    """The engine matches the longest token text first; its cut must end with the last piece."""
    cut = split_sentence(" ".join(words))
    longest_first = re.compile("|".join(sorted(map(re.escape, cut), key=len, reverse=True)))
    for count in range(1, len(cut) + 1):
        assert longest_first.findall("".join(cut[:count])) == cut[:count]


@pytest.mark.parametrize(
    ("sentence", "why"),
    [(" \n", "no words"), ("<|im_end|> is a token", "chat format"), ("<s>", "chat format")],
)
def test_reciter_refuses_an_impossible_sentence_with_a_reason(
    sentence: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        write_reciter(tmp_path / "model.gguf", sentence)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.gguf"
    target.write_text("an older file")

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_embedder(target)
    assert target.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [target]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard.files.tinymodels", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_the_named_model(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    assert command("reranker", str(target)).returncode == 0
    assert contents(gguf.GGUFReader(target), "general.name") == "Tiny Reranker"


def test_a_wrong_argument_is_refused_with_one_sentence(tmp_path: Path) -> None:
    for arguments in (["reciter"], ["poet", "x.gguf"], ["reciter", str(tmp_path / "missing" / "x.gguf")]):
        done = command(*arguments)
        assert done.returncode == 1
        assert done.stderr.endswith(".\n")
        assert done.stderr.count("\n") == 1
