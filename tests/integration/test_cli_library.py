"""`yard library` as a person types it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelyard.host.settings import Settings
from tests.commands import refusal_code, run_command
from tests.integration.library_yard import Shown, gguf, library, put, shown
from tests.support import Yard


@pytest.fixture
async def seen(yard: Yard, settings: Settings) -> AsyncIterator[Shown]:
    put(settings.models, "org/small/small-Q4_K_M.gguf", gguf("small"))
    put(settings.models, "org/large/large-Q4_K_M.gguf", gguf("large", bytes(9_000)))
    async with library(yard), shown(yard) as seen:
        await seen.at("org/small/small-Q4_K_M.gguf")
        yield seen


async def test_the_library_is_listed_by_name_size_or_date(yard: Yard, seen: Shown) -> None:
    plain = await run_command(yard, "library", "--sort", "size")
    assert plain.out.index("org/large") < plain.out.index("org/small")
    assert "free" in plain.out
    listed = (await run_command(yard, "library", "--json")).document
    assert [one["name"] for one in listed["entries"]] == ["org/large/large-Q4_K_M", "org/small/small-Q4_K_M"]
    assert listed["entries"][1]["size_bytes"] == len(gguf("small"))
    assert [one["store"] for one in listed["stores"]] == ["models"]


async def test_an_entry_is_shown_described_verified_deleted_and_restored(
    yard: Yard, settings: Settings, seen: Shown
) -> None:
    described = await run_command(yard, "library", "describe", "small-Q4_K_M", "The small one.")
    assert described.code == 0, described.err
    assert (settings.models / "org/small/description.txt").read_text() == "The small one.\n"
    assert (await run_command(yard, "library", "verify", "small-Q4_K_M")).code == 0
    shown_text = (await run_command(yard, "library", "show", "small-Q4_K_M.gguf")).out
    assert "The small one." in shown_text
    assert "verified" in shown_text
    deleted = await run_command(yard, "library", "delete", "org/small/small-Q4_K_M", "--yes")
    assert deleted.code == 0, deleted.err
    assert "org/small" in (await run_command(yard, "library", "trash")).out
    assert (await run_command(yard, "library", "restore", "org/small/small-Q4_K_M.gguf")).code == 0
    assert (settings.models / "org/small/small-Q4_K_M.gguf").read_bytes() == gguf("small")
    await run_command(yard, "library", "delete", "large-Q4_K_M", "--yes")
    emptied = await run_command(yard, "library", "trash", "--empty", "--yes", "--json")
    assert emptied.document["items"] == 1
    assert json.loads((await run_command(yard, "library", "trash", "--json")).out) == []


async def test_a_damaged_entry_fails_with_the_repair_command(
    yard: Yard, settings: Settings, seen: Shown
) -> None:
    await run_command(yard, "library", "verify", "small-Q4_K_M")
    place: Path = settings.models / "org/small/small-Q4_K_M.gguf"
    place.write_bytes(gguf("small")[:-1] + b"\1")
    await seen.scan()
    done = await run_command(yard, "library", "verify", "small-Q4_K_M")
    assert done.code == 1
    assert "yard library repair org/small/small-Q4_K_M.gguf" in done.err


async def test_an_unknown_or_ambiguous_entry_is_refused(yard: Yard, settings: Settings, seen: Shown) -> None:
    assert await refusal_code(yard, "library", "show", "nothing") == "not_found"
    assert await refusal_code(yard, "library", "restore", "nothing") == "not_found"
    put(settings.models, "other/small/small-Q4_K_M.gguf", gguf())
    await seen.scan()
    assert await refusal_code(yard, "library", "delete", "small-Q4_K_M") == "bad_request"
