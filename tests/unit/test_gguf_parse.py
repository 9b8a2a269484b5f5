"""The header reader: what it keeps, what it passes over, and that no file makes it fail without words."""

import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.files.gguf.header import make_header
from modelyard.files.gguf.parse import (
    MAX_NUMBERS,
    MAX_STORED,
    MAX_STRINGS,
    GgufError,
    NeedMoreBytes,
    Skipped,
    parse,
)
from modelyard.files.gguf.reader import read_contents, read_model, shard_paths
from modelyard.files.tinymodels import DEMO_SENTENCE, write_reciter
from tests.gguf_bytes import Weight, entry, gguf_bytes, head, tensor, text, typed

VALUES = {"general.architecture": "llama", "llama.block_count": 2, "llama.f": 0.5, "llama.yes": True}
WEIGHTS = (Weight("token_embd.weight", (256, 2), 12, 288), Weight("blk.0.attn_q.weight", (32, 4), 0, 512))
GOOD = gguf_bytes(VALUES, WEIGHTS)
SIZE = len(GOOD)


@pytest.mark.parametrize("version", [2, 3])
def test_entries_and_tensors_are_read(version: int) -> None:
    contents = parse(gguf_bytes(VALUES, WEIGHTS, version), SIZE)
    assert contents.values == VALUES
    assert [(item.name, item.kind.name, item.n_elements, item.size_bytes) for item in contents.tensors] == [
        ("token_embd.weight", "Q4_K", 512, 288),
        ("blk.0.attn_q.weight", "F32", 128, 512),
    ]
    assert contents.data_start == SIZE - 288 - 512


def test_long_arrays_and_strings_are_skipped() -> None:
    values = {
        "general.architecture": "llama",
        "tokens": ["a", "", "bcd"],
        "scores": [0.5] * (MAX_STORED + 1),
        "template": "x" * (MAX_STORED + 1),
        "heads": [1, 2, 3],
        "last": 7,
    }
    raw = gguf_bytes(values)
    read = parse(raw, len(raw)).values
    assert read["tokens"] == Skipped(3)
    assert read["scores"] == read["template"] == Skipped(MAX_STORED + 1)
    assert (read["heads"], read["last"]) == ((1, 2, 3), 7)


def test_missing_header_bytes_are_requested_and_weights_are_not() -> None:
    header_bytes = parse(GOOD, SIZE).header_bytes
    at_hand, requested = b"", []
    while True:
        try:
            assert parse(at_hand, SIZE) == parse(GOOD, SIZE)
            break
        except NeedMoreBytes as more:
            assert more.at_least_bytes > len(at_hand)
            requested.append(more.at_least_bytes)
            at_hand = GOOD[: more.at_least_bytes]
    assert requested[-1] == header_bytes < SIZE


def test_a_file_truncated_anywhere_is_refused() -> None:
    for end in range(SIZE):
        with pytest.raises(GgufError, match=r"\.$"):
            parse(GOOD[:end], end)


def file(*entries: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    return head(len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors) + bytes(4096)


ARCHITECTURE = entry("general.architecture", "llama")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (file(ARCHITECTURE, ARCHITECTURE), "'general.architecture' twice"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IQ", 8, 2**60)), "past the end"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IQ", 8, 2**64 - 1)), "past the end"),
        (file(ARCHITECTURE, struct.pack("<Q", 2**20)), "a name of 1048576 bytes"),
        (file(ARCHITECTURE, text(b"\xff\xfe") + typed(1)), "a name that is not text"),
        (file(ARCHITECTURE, text("a") + struct.pack("<I", 13)), "unknown type 13"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IIQ", 9, 13, 1)), "unknown type 13"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IIQ", 9, 9, 1)), "an array of arrays"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IIQ", 9, 5, 2**61)), "past the end"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IIQ", 9, 8, 2**61)), "more than 1000000 strings"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IIQQ", 9, 8, 2, 2**60)), "past the end"),
        (file(ARCHITECTURE, text("a") + struct.pack("<IIQQ", 9, 8, 2, 2**64 - 1)), "past the end"),
        (file(ARCHITECTURE, entry("general.alignment", 33)), "not a power of two"),
        (file(ARCHITECTURE, entry("general.alignment", 2**31)), "not a power of two"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a", (1,) * 5), 0),)), "claims 5 dimensions"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a", (2**32, 2**32)), 0),)), "cannot have the shape"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a", (33,), 12), 0),)), "cannot have the shape"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a", (2**40,)), 0),)), "it is truncated"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a", kind=99), 0),)), "type 99, which is unknown"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a"), 32),)), "a wrong offset"),
        (file(ARCHITECTURE, tensors=(tensor(Weight("a"), 0), tensor(Weight("a"), 128))), "two tensors"),
        (head(70_000, 1) + bytes(4_000_000), "claims"),
        (head(1, 20_000) + b"\1" + bytes(4_000_000), "claims"),
    ],
)
def test_an_invalid_header_is_refused_with_a_sentence(raw: bytes, words: str) -> None:
    with pytest.raises(GgufError, match=words) as caught:
        parse(raw, len(raw))
    assert str(caught.value).endswith(".")


def test_a_header_beyond_every_real_size_is_refused_before_it_is_fetched() -> None:
    raw = file(ARCHITECTURE, text("a") + struct.pack("<IIQ", 9, 5, 2**30))
    with pytest.raises(GgufError, match="larger than 67108864 bytes"):
        parse(raw, 2**40)


@given(data=st.data())
def test_corrupted_headers_end_in_a_header_or_a_sentence(data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for at, byte in data.draw(st.lists(st.tuples(st.integers(8, SIZE - 1), st.integers(0, 255)), max_size=8)):
        raw[at] = byte
    end = data.draw(st.integers(0, SIZE))
    size_bytes = data.draw(st.sampled_from([end, SIZE, 2**40]))
    try:
        header = make_header(parse(bytes(raw[:end]), size_bytes))
        assert header.weights.total_bytes <= size_bytes
    except NeedMoreBytes as more:
        assert end < more.at_least_bytes <= size_bytes
    except GgufError as error:
        assert str(error).endswith(".")


@given(words=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 16), max_size=40))
def test_any_numbers_behind_the_magic_end_in_a_sentence(words: list[int]) -> None:
    raw = b"GGUF\x03\0\0\0" + b"".join(struct.pack("<Q", word) for word in words)
    with pytest.raises(GgufError):
        make_header(parse(raw, len(raw)))


def _vocabulary(n_tokens: int, n_merges: int) -> bytes:
    rng = random.Random(7)
    tokens = b"".join(text("t" * rng.randrange(1, 14)) for _ in range(n_tokens))
    merges = b"".join(text("m" * rng.randrange(3, 18)) for _ in range(n_merges))
    return file(
        ARCHITECTURE,
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, n_tokens) + tokens,
        text("tokenizer.ggml.merges") + struct.pack("<IIQ", 9, 8, n_merges) + merges,
    )


def test_a_vocabulary_of_128_thousand_tokens_costs_neither_time_nor_memory() -> None:
    raw = _vocabulary(128_256, 280_147)
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        header = make_header(parse(raw, len(raw)))
        seconds.append(time.process_time() - begun)
    assert header.n_vocab == 128_256
    assert min(seconds) < 0.15
    tracemalloc.start()
    parse(raw, len(raw))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 100_000


def test_the_worst_array_of_strings_is_bounded() -> None:
    array = text("a") + struct.pack("<IIQ", 9, 8, MAX_STRINGS) + bytes(8 * MAX_STRINGS)
    begun = time.process_time()
    with pytest.raises(GgufError, match="more than 1000000 strings"):
        raw = file(ARCHITECTURE, array, text("b") + struct.pack("<IIQ", 9, 8, 1))
        parse(raw, len(raw))
    assert time.process_time() - begun < 2.0


def test_many_lists_of_numbers_do_not_fill_the_memory() -> None:
    lists = (entry(f"key{number}", [1] * MAX_STORED) for number in range(MAX_NUMBERS // MAX_STORED + 1))
    raw = file(ARCHITECTURE, *lists)
    with pytest.raises(GgufError, match="more than 200000 numbers"):
        parse(raw, len(raw))


def test_a_file_is_read_no_further_than_its_header(tmp_path: Path) -> None:
    """The weights lie in a hole of the file, so reading them would show in time and memory."""
    path = tmp_path / "model.gguf"
    weight = Weight("token_embd.weight", (2**20, 2**12), 0, 2**34)
    front = head(1, 1) + ARCHITECTURE + tensor(weight, 0)
    path.write_bytes(front)
    with path.open("r+b") as opened:
        opened.truncate(2**34 + 4096)
    tracemalloc.start()
    contents = read_contents(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert contents.tensors[0].size_bytes == 2**34
    assert peak_bytes < 8 * 2**20


def test_a_header_longer_than_the_first_read_is_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(_vocabulary(300_000, 10))
    assert read_model(path).n_vocab == 300_000


def test_shards_are_found_and_summed_from_any_of_them(tmp_path: Path) -> None:
    for number, (values, weights) in enumerate([(VALUES, WEIGHTS[:1]), ({"split.no": 1}, WEIGHTS[1:])], 1):
        (tmp_path / f"m-{number:05d}-of-00002.gguf").write_bytes(gguf_bytes(values, weights))
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        header = read_model(tmp_path / name)
        assert (header.n_shards, header.n_params, header.weights.total_bytes) == (2, 640, 800)
        assert header.weights.block_bytes == (512, 0)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00003.gguf"
    first.write_bytes(GOOD)
    with pytest.raises(GgufError, match=r"m-00002-of-00003\.gguf is missing: the model has 3 files\."):
        read_model(first)


def test_one_file_is_its_own_only_shard(tmp_path: Path) -> None:
    assert shard_paths(tmp_path / "model.gguf") == (tmp_path / "model.gguf",)


def test_a_real_file_truncated_in_its_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_reciter(path, DEMO_SENTENCE)
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(GgufError, match="it is truncated"):
        read_model(path)
