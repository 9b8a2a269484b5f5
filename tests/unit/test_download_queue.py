"""The rules of the download queue: order, duplicates, bandwidth shares; references in pasted text."""

from typing import Any

import pytest

from schemas.downloads import Download, DownloadState
from services.downloader import queue
from services.downloader.reference import find_references, parse_reference

_S = DownloadState
COMMIT = "c" * 40


def download(key: str, order: float = 0.0, **fields: Any) -> Download:
    values = {"reference": f"org/{key}", "model": f"org/{key}", "state": _S.QUEUED, **fields}
    return Download(download=key, order=order, created_at=1.0, changed_at=1.0, **values)


def test_queued_downloads_are_sorted_by_order() -> None:
    downloads = [
        download("b", 2.0),
        download("a", 1.0),
        download("p", 0.0, state=_S.PAUSED),
        download("t", 0.5, state=_S.TRANSFERRING),
    ]
    assert [item.download for item in queue.queued(downloads)] == ["a", "b"]


def test_no_more_than_the_maximum_run() -> None:
    a, b, c = download("a", 1.0), download("b", 2.0), download("c", 3.0)
    assert queue.next_download([a, b, c], [], 2) is a
    assert queue.next_download([a, b, c], [a], 2) is b
    assert queue.next_download([a, b, c], [a, b], 2) is None


def test_two_downloads_of_one_repository_never_run_together() -> None:
    a, b, c = download("a", 1.0), download("b", 2.0, reference="Org/A:Q8_0"), download("c", 3.0)
    assert queue.next_download([a, b, c], [a], 2) is c


@pytest.mark.parametrize(
    ("moving", "to", "result"),
    [
        ("c", 0, "cabd"),
        ("a", 3, "bcda"),
        ("a", 99, "bcda"),
        ("d", 1, "adbc"),
        ("b", 1, "abcd"),
        ("a", -5, "abcd"),
    ],
)
def test_a_move_gives_the_requested_position(moving: str, to: int, result: str) -> None:
    downloads = {key: download(key, order) for order, key in enumerate("abcd")}
    for key, order in queue.moved(downloads.values(), moving, to).items():
        downloads[key] = download(key, order)
    assert "".join(item.download for item in queue.queued(downloads.values())) == result


def test_many_moves_keep_orders_distinct_and_small() -> None:
    downloads = {key: download(key, order) for order, key in enumerate("abc")}
    for turn in range(500):
        key = "ab"[turn % 2]
        for changed, order in queue.moved(downloads.values(), key, 1).items():
            downloads[changed] = download(changed, order)
        assert queue.queued(downloads.values())[1].download == key
        key = queue.queued(downloads.values())[0].download
    assert all(abs(item.order) < 1e6 for item in downloads.values())


FILE = "x-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("fields", "requested", "name", "is_duplicate"),
    [
        ({"reference": "org/a"}, "org/a", None, True),
        ({"reference": "org/a"}, "https://huggingface.co/org/a", None, True),
        ({"reference": "org/a"}, "https://huggingface.co/org/a/tree/main", None, True),
        ({"reference": "org/a:Q4_K_M"}, "hf.co/org/a:q4_k_m", None, True),
        (
            {"reference": "org/a:Q4_K_M", "files": (FILE,)},
            f"https://huggingface.co/org/a/blob/main/{FILE}",
            None,
            True,
        ),
        ({"reference": "org/a:Q4_K_M"}, f"https://huggingface.co/org/a/blob/main/{FILE}", None, False),
        ({"reference": f"org/a/{FILE}"}, f"https://huggingface.co/org/a/blob/main/{FILE}", None, True),
        ({"reference": f"org/a/{FILE}"}, "org/a", None, False),
        ({"reference": "org/a", "quant": "Q4_K_M"}, "org/a:Q4_K_M", None, True),
        ({"reference": "org/a:Q4_K_M", "is_default_quant": True}, "org/a", None, True),
        ({"reference": "org/a", "revision": COMMIT}, f"org/a@{COMMIT}", None, True),
        ({"reference": "org/a", "state": _S.PAUSED}, "org/a", None, True),
        ({"reference": "org/a", "model": "mine"}, "org/a", "mine", True),
        ({"reference": "org/a", "model": "mine"}, "org/a", "yours", False),
        ({"reference": "org/a:Q4_K_M"}, "org/a", None, False),
        ({"reference": "org/a"}, "org/a:Q4_K_M", None, False),
        ({"reference": "org/a"}, "org/a@v2", None, False),
        ({"reference": "org/a@v2"}, "org/a", None, False),
        ({"reference": "org/b"}, "org/a", None, False),
        ({"reference": "org/a", "state": _S.FINISHED}, "org/a", None, False),
    ],
)
def test_a_duplicate_is_found_however_the_reference_is_written(
    fields: dict[str, Any], requested: str, name: str | None, is_duplicate: bool
) -> None:
    running = download("x", **fields)
    assert queue.find_duplicate([running], parse_reference(requested), name) is (
        running if is_duplicate else None
    )


@pytest.mark.parametrize(
    ("total", "limits", "shares"),
    [
        (None, {"a": None, "b": 5}, {"a": None, "b": 5}),
        (100, {"a": None}, {"a": 100}),
        (100, {"a": None, "b": None}, {"a": 50, "b": 50}),
        (100, {"a": None, "b": 10}, {"a": 90, "b": 10}),
        (100, {"a": 80, "b": 80, "c": 10}, {"a": 45, "b": 45, "c": 10}),
        (100, {"a": 500}, {"a": 100}),
        (1, {"a": None, "b": None}, {"a": 1, "b": 1}),
        (100, {}, {}),
    ],
)
def test_the_bandwidth_limit_is_shared(
    total: int | None, limits: dict[str, int | None], shares: dict[str, int | None]
) -> None:
    assert queue.bandwidth_shares(total, limits) == shares


@pytest.mark.parametrize(
    ("text", "references"),
    [
        ("org/a org/b,org/c;org/d\n\n org/a ", ["org/a", "org/b", "org/c", "org/d"]),
        (
            "- org/a:Q8_0\n* `org/b@v1`\n1. https://hf.co/org/c\n",
            ["org/a:Q8_0", "org/b@v1", "https://hf.co/org/c"],
        ),
        ("# mine\norg/a\n  # later: org/b", ["org/a"]),
        (
            "<https://huggingface.co/org/a>, 'org/b'\r\norg/c\t",
            ["https://huggingface.co/org/a", "org/b", "org/c"],
        ),
        (" ,;\n# nothing", []),
        ("\ufefforg/a\u200b\norg/b # the best of them\n", ["org/a", "org/b"]),
        ("org/a, org/b、org/c | org/d".replace(", ", "\uff0c"), ["org/a", "org/b", "org/c", "org/d"]),
        ("see [this](https://hf.co/org/a).", ["see", "https://hf.co/org/a"]),
        ("- [ ] org/a\n- [x] 'org/b'.\n2) org/c", ["org/a", "org/b", "org/c"]),
    ],
)
def test_references_are_found_in_pasted_text(text: str, references: list[str]) -> None:
    assert find_references(text) == references
