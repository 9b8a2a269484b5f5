"""The journal never claims more bytes than have arrived."""

from pathlib import Path

import pytest

from services.downloader.transfer import journal
from services.downloader.transfer.journal import Journal, read_journal

SIZE = 1000
SHA = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf.jrnl"


def write_journal(path: Path) -> Journal:
    opened = Journal(path, SIZE, SHA)
    opened.add_written(0, 100)
    opened.add_written(300, 400)
    opened.add_synced(((0, 50),), opened.generation)
    opened.add_etag("hub", '"one"')
    opened.close()
    return opened


def test_written_bytes_count_after_a_kill(path: Path) -> None:
    write_journal(path)
    state = read_journal(path, SIZE, SHA)
    assert state.arrived == ((0, 100), (300, 400))
    assert state.etags == {"hub": '"one"'}


def test_only_synced_bytes_count_after_a_reboot(path: Path) -> None:
    write_journal(path)
    path.write_bytes(path.read_bytes().replace(journal.boot_id().encode(), b"another-boot"))
    assert read_journal(path, SIZE, SHA).arrived == ((0, 50),)
    Journal(path, SIZE, SHA).close()
    assert read_journal(path, SIZE, SHA).arrived == ((0, 50),), "opening it changes nothing"


def test_bytes_written_after_a_reboot_count(path: Path) -> None:
    write_journal(path)
    path.write_bytes(path.read_bytes().replace(journal.boot_id().encode(), b"another-boot"))
    later = Journal(path, SIZE, SHA)
    later.add_written(50, 60)
    later.close()
    assert read_journal(path, SIZE, SHA).arrived == ((0, 60),)


def test_bytes_synced_for_an_earlier_generation_do_not_count(path: Path) -> None:
    """A thread syncs them, while a file without a hash may be restarted."""
    opened = Journal(path, SIZE, None)
    generation = opened.generation
    opened.restart()
    opened.add_synced(((0, 50),), generation)
    opened.close()
    assert read_journal(path, SIZE, None).arrived == ()


def test_reopening_keeps_all_ranges(path: Path) -> None:
    write_journal(path)
    again = Journal(path, SIZE, SHA)
    assert again.state.arrived == ((0, 100), (300, 400))
    again.close()
    assert read_journal(path, SIZE, SHA).arrived == ((0, 100), (300, 400))


@pytest.mark.parametrize(("size", "sha"), [(SIZE + 1, SHA), (SIZE, "b" * 64), (SIZE, None)])
def test_a_journal_of_another_file_is_empty(path: Path, size: int, sha: str | None) -> None:
    write_journal(path)
    assert read_journal(path, size, sha).arrived == ()


def test_a_truncated_journal_claims_no_missing_byte(path: Path) -> None:
    write_journal(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        arrived = read_journal(path, SIZE, SHA).arrived
        assert all(any(a <= start and end <= b for a, b in ((0, 100), (300, 400))) for start, end in arrived)


@pytest.mark.parametrize(
    "rest", [b"\0" * 100, b'["written",0,9', b'["written",-5,"x"]\n', b"{}\n[]\nnull\n", b"\xff\n"]
)
def test_garbage_at_the_end_is_skipped(path: Path, rest: bytes) -> None:
    write_journal(path)
    with path.open("ab") as file:
        file.write(rest)
    assert read_journal(path, SIZE, SHA).arrived == ((0, 100), (300, 400))


def test_a_symlink_is_not_read_as_a_journal(path: Path, tmp_path: Path) -> None:
    write_journal(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    assert read_journal(path, SIZE, SHA).arrived == ()
