"""The library on a real disk: files opened, links, records and facts."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.library import EntryFacts, VerifyState
from services.downloader.library import records, store_fs, trash
from services.downloader.library.records import FileRecord
from services.downloader.library.scanner import StoreScanner
from services.downloader.library.walk import ScannedFile, walk
from tests.integration.library_yard import gguf, put

_opened: list[str] | None = None


def _listen(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(args[0]))


@contextmanager
def opened() -> Iterator[list[str]]:
    """The names that are opened inside the block, folders left out. An audit hook cannot be taken away."""
    global _opened
    if not getattr(sys, "_library_test_hook", False):
        sys.addaudithook(_listen)
        sys._library_test_hook = True  # type: ignore[attr-defined]
    files: list[str] = []
    _opened = files
    try:
        yield files
    finally:
        _opened = None


def bodies(names: list[str]) -> list[str]:
    return [name for name in names if "." in name.rpartition("/")[2]]


def test_a_description_is_shown_without_a_byte_order_mark(tmp_path: Path) -> None:
    put(tmp_path, "org/repo/m.gguf", gguf())
    put(tmp_path, "org/repo/description.txt", "\ufeffFür Gespräche.\r\n".encode())
    (model,) = StoreScanner("models", tmp_path).scan().models
    assert model.description == "Für Gespräche."


def test_an_incomplete_file_counts_its_allocated_bytes(tmp_path: Path) -> None:
    """It has its full size from the beginning, and is mostly holes."""
    place = put(tmp_path, "org/repo/m.gguf.part", b"here" * 1024)
    os.truncate(place, 10 * 1024**3)
    (partial,) = walk(tmp_path).partials
    assert 4096 <= partial.size_bytes < 1024**2


def test_a_second_scan_opens_only_changed_files(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, f"org/repo{number}/m.gguf", gguf(str(number)))
        put(tmp_path, f"org/repo{number}/description.txt", b"Mine.")
        records.update(tmp_path, {f"org/repo{number}/m.gguf": FileRecord(size_bytes=1, sha256="ab" * 32)})
    scanner = StoreScanner("models", tmp_path)
    with opened() as first:
        result = scanner.scan()
    assert len(bodies(first)) >= 60, "the hook sees nothing"
    with opened() as second:
        assert scanner.scan() is result
    assert bodies(second) == []
    put(tmp_path, "org/repo7/m.gguf", gguf("changed"))
    with opened() as third:
        names = {model.reading.facts.name for model in scanner.scan().models if model.reading}
    assert "changed" in names
    assert set(bodies(third)) <= {"m.gguf"}


def test_a_file_touched_in_place_is_read_again(tmp_path: Path) -> None:
    file = put(tmp_path, "m.gguf", gguf("aaaa"))
    scanner = StoreScanner("models", tmp_path)
    scanner.scan()
    file.write_bytes(gguf("bbbb"))
    os.utime(file, ns=(1, 1))
    (model,) = scanner.scan().models
    assert model.reading is not None
    assert model.reading.facts.name == "bbbb"


def test_ten_thousand_scanned_models_cost_one_walk_and_no_reading(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"org/r{folder}").mkdir(parents=True)
        for number in range(100):
            (tmp_path / f"org/r{folder}/m{number}.gguf").touch()
    scanner = StoreScanner("models", tmp_path)
    for path in walk(tmp_path).files:
        scanner.restore_facts(path.path, _known(path))
    with opened() as names:
        result = scanner.scan()
    assert (len(result.models), result.pending, bodies(names)) == (10_000, 0, [])


def _known(file: ScannedFile):  # type: ignore[no-untyped-def]
    from services.downloader.library.scanner import FactsReading

    return FactsReading((file.size_bytes, file.modified_ns / 1e9), EntryFacts(quant="Q4_0"))


def test_reading_continues_at_the_next_scan_after_its_time_budget(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"m{number}.gguf", gguf(str(number)))
    scanner = StoreScanner("models", tmp_path)
    assert scanner.scan(read_budget_s=-1.0).pending == 3
    assert scanner.scan().pending == 0


@pytest.mark.parametrize("path", ["", ".", "..", "a/../b", "/a", "a//b", "a/", "a\0b"])
def test_a_path_out_of_the_store_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path in a store"):
        store_fs.split_path(path)


def test_no_path_component_is_a_followed_link(tmp_path: Path) -> None:
    root = tmp_path / "root"
    secret = put(tmp_path, "outside/secret.gguf", b"secret")
    put(root, "real/m.gguf", b"mine")
    (root / "link").symlink_to(secret.parent)
    (root / "file.gguf").symlink_to(secret)
    for path in ("link/secret.gguf", "file.gguf"):
        with pytest.raises(OSError, match=r"link|symbolic"):
            store_fs.read_file(root, path, 100)
    for work in (
        lambda: store_fs.write_file(root, "link/secret.gguf", b"x"),
        lambda: store_fs.remove_file(root, "link/secret.gguf"),
        lambda: store_fs.move_file(root, "link/secret.gguf", "stolen"),
        lambda: store_fs.move_file(root, "real/m.gguf", "link/m.gguf"),
    ):
        with pytest.raises(OSError, match="link"):
            work()
    store_fs.write_file(root, "file.gguf", b"x")
    assert secret.read_bytes() == b"secret", "a link is replaced, not written through"


def test_a_move_replaces_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a", b"a")
    put(tmp_path, "b", b"b")
    with pytest.raises(FileExistsError):
        store_fs.move_file(tmp_path, "a", "b")
    assert (tmp_path / "b").read_bytes() == b"b"


def test_a_pipe_or_a_folder_is_refused_as_a_file_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    (tmp_path / "folder.gguf").mkdir()
    for name in ("m.gguf", "folder.gguf"):
        with pytest.raises(OSError, match=r"not a regular file|directory"):
            store_fs.read_file(tmp_path, name, 10)
    assert StoreScanner("models", tmp_path).scan().models == []


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf.part",
        "m.gguf.incomplete",
        "m.gguf.part.json",
        ".0123.part",
        "m.gguf.jrnl",
        "m.gguf.crdownload",
        "M.GGUF.PART",
    ],
)
def test_an_incomplete_file_is_recognized_by_its_name(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"org/{name}", b"half")
    put(tmp_path, "org/whole.gguf", gguf())
    tree = walk(tmp_path)
    assert [file.name for file in tree.partials] == [name]
    assert [model.group.path for model in StoreScanner("m", tmp_path).scan().models] == ["org/whole.gguf"]


def test_a_file_that_aria2_is_writing_is_incomplete(tmp_path: Path) -> None:
    put(tmp_path, "m.gguf", gguf())
    put(tmp_path, "m.gguf.aria2", b"")
    assert StoreScanner("m", tmp_path).scan().models == []


def test_unprintable_names_are_skipped_and_reported(tmp_path: Path) -> None:
    put(tmp_path, "good.gguf", gguf())
    Path(os.fsdecode(bytes(tmp_path) + b"/bad\xff.gguf")).touch()
    put(tmp_path, "new\nline.gguf", gguf())
    tree = walk(tmp_path)
    assert [file.path for file in tree.files] == ["good.gguf"]
    assert len(tree.skipped) == 2
    json.dumps(tree.skipped).encode()


def test_folders_below_the_depth_limit_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a/" * 60 + "m.gguf", gguf())
    tree = walk(tmp_path)
    assert (tree.files, len(tree.skipped)) == ([], 1)


def test_an_invalid_file_has_a_problem_sentence(tmp_path: Path) -> None:
    put(tmp_path, "cut.gguf", gguf()[:-64])
    put(tmp_path, "page.gguf", b"<!doctype html>" * 10)
    put(tmp_path, "o/m-00001-of-00002.gguf", gguf())
    put(tmp_path, "s/model.safetensors", b"\0" * 20)
    put(tmp_path, "s/config.json", b"{}")
    problems = {
        m.group.path: m.reading.problem or "" for m in StoreScanner("m", tmp_path).scan().models if m.reading
    }
    assert "truncated" in problems["cut.gguf"]
    assert "not a GGUF model" in problems["page.gguf"]
    assert "1 of its 2 files are missing" in problems["o/m-00001-of-00002.gguf"]
    assert "not a safetensors file" in problems["s"]


def test_the_facts_of_safetensors_come_from_headers_and_configurations(tmp_path: Path) -> None:
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "w": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}}
    )
    put(tmp_path, "o/r/model.safetensors", len(header).to_bytes(8, "little") + header.encode() + bytes(64))
    config = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 40960, "num_hidden_layers": 2}
    put(tmp_path, "o/r/config.json", json.dumps(config).encode())
    put(tmp_path, "o/r/tokenizer_config.json", b'{"chat_template": "{{ x }}"}')
    (model,) = StoreScanner("m", tmp_path).scan().models
    assert model.reading is not None
    facts = model.reading.facts
    assert (facts.architecture, facts.quant, facts.n_params) == ("Qwen3ForCausalLM", "BF16", 32)
    assert (facts.n_ctx_train, facts.n_layer, facts.has_chat_template) == (40960, 2, True)


SHA = "ab" * 32
OWN = FileRecord(size_bytes=10, sha256=SHA, checked_at=5.0, checked_ns=7)
ODD = FileRecord(size_bytes=10, sha256="no hash", checked_at=5.0, checked_ns=7)
WHOLE = FileRecord(size_bytes=10, sha256=SHA, repo="o/r", checked_at=5.0, checked_ns=7)


@pytest.mark.parametrize(
    ("file", "record", "verified"),
    [
        (ScannedFile("m", 10, 7), WHOLE, VerifyState.VERIFIED),
        (ScannedFile("m", 10, 8), WHOLE, VerifyState.UNVERIFIED),
        (ScannedFile("m", 11, 7), WHOLE, VerifyState.DAMAGED),
        (ScannedFile("m", 11, 7), OWN, VerifyState.UNKNOWN),
        (ScannedFile("m", 10, 7), FileRecord(size_bytes=10, sha256=SHA), VerifyState.UNVERIFIED),
        (ScannedFile("m", 10, 7), ODD, VerifyState.UNKNOWN),
        (ScannedFile("m", 10, 7), FileRecord(size_bytes=10), VerifyState.UNKNOWN),
        (ScannedFile("m", 10, 7), None, VerifyState.UNKNOWN),
    ],
)
def test_the_verify_state_of_a_file_follows_its_record(
    file: ScannedFile, record: FileRecord | None, verified: VerifyState
) -> None:
    assert records.entry_file(file, record).verified is verified


def test_a_record_moves_with_its_folder_and_an_invalid_one_is_ignored(tmp_path: Path) -> None:
    put(tmp_path, "a/m.gguf", gguf())
    records.update(tmp_path, {"a/m.gguf": WHOLE})
    (tmp_path / "a").rename(tmp_path / "b")
    assert records.load(tmp_path, "b").files == {"m.gguf": WHOLE}
    put(tmp_path, f"b/{records.NAME}", b"{broken")
    assert records.load(tmp_path, "b").files == {}
    (model,) = StoreScanner("m", tmp_path).scan().models
    assert model.files[0].verified is VerifyState.UNKNOWN


def test_a_restored_quant_has_its_record_again(tmp_path: Path) -> None:
    for quant in ("Q4_0", "Q8_0"):
        put(tmp_path, f"o/m-{quant}.gguf", gguf(quant))
        records.update(tmp_path, {f"o/m-{quant}.gguf": WHOLE})
    scanner = StoreScanner("m", tmp_path)
    chosen = next(model for model in scanner.scan().models if "Q4_0" in model.group.path)
    manifest = trash.put(tmp_path, chosen)
    assert records.load(tmp_path, "o").files.keys() == {"m-Q8_0.gguf"}
    assert [model.group.path for model in scanner.scan().models] == ["o/m-Q8_0.gguf"]
    trash.restore(tmp_path, manifest)
    assert records.load(tmp_path, "o").files.keys() == {"m-Q4_0.gguf", "m-Q8_0.gguf"}
    assert (tmp_path / "o/m-Q4_0.gguf").read_bytes() == gguf("Q4_0")


@pytest.mark.parametrize("path", ["../../outside", "/outside", "a/../../../outside"])
def test_a_forged_manifest_leads_to_no_other_item(tmp_path: Path, path: str) -> None:
    root = tmp_path / "a/b/root"
    put(root, "m.gguf", gguf())
    (model,) = StoreScanner("m", root).scan().models
    manifest = trash.put(root, model)
    place = root / trash.FOLDER / manifest.item / "manifest.json"
    text = place.read_text()
    assert '"m.gguf"' in text
    for phase in ("there", "trashing", "restoring"):
        place.write_text(text.replace('"m.gguf"', json.dumps(path)).replace('"there"', json.dumps(phase)))
        assert trash.items(root, {}) == {}
        trash.recover(root)
    assert not (tmp_path / "outside").exists()


def test_a_trash_folder_without_a_manifest_is_purged_after_a_day(tmp_path: Path) -> None:
    put(tmp_path, f"{trash.FOLDER}/fresh/files/m.gguf", gguf())
    put(tmp_path, f"{trash.FOLDER}/old/files/m.gguf", gguf())
    (tmp_path / trash.FOLDER / "empty").mkdir()
    put(tmp_path, f"{trash.FOLDER}/gone-half/files/m.gguf", gguf())
    os.utime(tmp_path / trash.FOLDER / "old", (1, 1))
    trash.recover(tmp_path)
    assert [path.name for path in (tmp_path / trash.FOLDER).iterdir()] == ["fresh"]
