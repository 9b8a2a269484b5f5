"""Who begins next, who joins whom, who gets how much."""

from typing import Any

import pytest

from schemas.downloads import Download, DownloadState
from services.downloader import queue
from services.downloader.pasted import pasted_references
from services.downloader.reference import parse_reference

_S = DownloadState
COMMIT = "c" * 40


def one(key: str, order: float = 0.0, **fields: Any) -> Download:
    given = {"reference": f"org/{key}", "model": f"org/{key}", "state": _S.QUEUED, **fields}
    return Download(download=key, order=order, created_at=1.0, changed_at=1.0, **given)


def test_those_that_wait_come_by_their_order() -> None:
    all_of = [
        one("b", 2.0),
        one("a", 1.0),
        one("p", 0.0, state=_S.PAUSED),
        one("t", 0.5, state=_S.TRANSFERRING),
    ]
    assert [each.download for each in queue.waiting(all_of)] == ["a", "b"]


def test_only_so_many_are_at_work() -> None:
    a, b, c = one("a", 1.0), one("b", 2.0), one("c", 3.0)
    assert queue.next_up([a, b, c], [], 2) is a
    assert queue.next_up([a, b, c], [a], 2) is b
    assert queue.next_up([a, b, c], [a, b], 2) is None


def test_two_of_one_repository_come_one_after_the_other() -> None:
    a, b, c = one("a", 1.0), one("b", 2.0, reference="Org/A:Q8_0"), one("c", 3.0)
    assert queue.next_up([a, b, c], [a], 2) is c


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
def test_a_move_gives_the_place_that_was_asked_for(moving: str, to: int, result: str) -> None:
    all_of = {key: one(key, order) for order, key in enumerate("abcd")}
    for key, order in queue.moved(all_of.values(), moving, to).items():
        all_of[key] = one(key, order)
    assert "".join(each.download for each in queue.waiting(all_of.values())) == result


def test_moves_never_run_out_of_numbers() -> None:
    all_of = {key: one(key, order) for order, key in enumerate("abc")}
    for turn in range(500):
        key = "ab"[turn % 2]
        for changed, order in queue.moved(all_of.values(), key, 1).items():
            all_of[changed] = one(changed, order)
        assert queue.waiting(all_of.values())[1].download == key
        key = queue.waiting(all_of.values())[0].download
    assert all(abs(each.order) < 1e6 for each in all_of.values())


FILE = "x-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("fields", "asked", "name", "joins"),
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
def test_a_second_asker_joins_however_it_is_worded(
    fields: dict[str, Any], asked: str, name: str | None, joins: bool
) -> None:
    running = one("x", **fields)
    assert queue.joined([running], parse_reference(asked), name) is (running if joins else None)


@pytest.mark.parametrize(
    ("total", "caps", "result"),
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
def test_a_limit_is_shared(
    total: int | None, caps: dict[str, int | None], result: dict[str, int | None]
) -> None:
    assert queue.shares(total, caps) == result


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
def test_references_are_found_in_what_people_paste(text: str, references: list[str]) -> None:
    assert pasted_references(text) == references
