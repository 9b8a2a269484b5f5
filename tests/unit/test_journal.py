"""A journal claims what has arrived, and never too much."""

from pathlib import Path

import pytest

from services.downloader import journal
from services.downloader.journal import Journal, read

SIZE = 1000
SHA = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf.jrnl"


def left(path: Path) -> Journal:
    opened = Journal(path, SIZE, SHA)
    opened.written(0, 100)
    opened.written(300, 400)
    opened.synced(((0, 50),), opened.life)
    opened.etag("hub", '"one"')
    opened.close()
    return opened


def test_after_a_kill_everything_written_counts(path: Path) -> None:
    left(path)
    found = read(path, SIZE, SHA)
    assert found.arrived == ((0, 100), (300, 400))
    assert found.etags == {"hub": '"one"'}


def test_after_a_power_cut_only_what_the_disk_confirmed_counts(path: Path) -> None:
    left(path)
    path.write_bytes(path.read_bytes().replace(journal.boot_id().encode(), b"another-boot"))
    assert read(path, SIZE, SHA).arrived == ((0, 50),)
    Journal(path, SIZE, SHA).close()
    assert read(path, SIZE, SHA).arrived == ((0, 50),), "opening it makes it no better"


def test_what_a_later_boot_wrote_counts_again(path: Path) -> None:
    left(path)
    path.write_bytes(path.read_bytes().replace(journal.boot_id().encode(), b"another-boot"))
    later = Journal(path, SIZE, SHA)
    later.written(50, 60)
    later.close()
    assert read(path, SIZE, SHA).arrived == ((0, 60),)


def test_bytes_that_were_forgotten_while_the_disk_confirmed_them_do_not_count(path: Path) -> None:
    """They are confirmed by a thread, and a file without a hash may begin anew meanwhile."""
    opened = Journal(path, SIZE, None)
    life = opened.life
    opened.restart()
    opened.synced(((0, 50),), life)
    opened.close()
    assert read(path, SIZE, None).arrived == ()


def test_opening_it_again_keeps_everything(path: Path) -> None:
    left(path)
    again = Journal(path, SIZE, SHA)
    assert again.found.arrived == ((0, 100), (300, 400))
    again.close()
    assert read(path, SIZE, SHA).arrived == ((0, 100), (300, 400))


@pytest.mark.parametrize(("size", "sha"), [(SIZE + 1, SHA), (SIZE, "b" * 64), (SIZE, None)])
def test_about_another_file_it_says_nothing(path: Path, size: int, sha: str | None) -> None:
    left(path)
    assert read(path, size, sha).arrived == ()


def test_any_cut_of_it_claims_no_byte_that_was_not_there(path: Path) -> None:
    left(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        arrived = read(path, SIZE, SHA).arrived
        assert all(any(a <= start and end <= b for a, b in ((0, 100), (300, 400))) for start, end in arrived)


@pytest.mark.parametrize(
    "rest", [b"\0" * 100, b'["written",0,9', b'["written",-5,"x"]\n', b"{}\n[]\nnull\n", b"\xff\n"]
)
def test_rubbish_at_its_end_is_passed_over(path: Path, rest: bytes) -> None:
    left(path)
    with path.open("ab") as file:
        file.write(rest)
    assert read(path, SIZE, SHA).arrived == ((0, 100), (300, 400))


def test_a_link_in_its_place_is_no_journal(path: Path, tmp_path: Path) -> None:
    left(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    assert read(path, SIZE, SHA).arrived == ()
