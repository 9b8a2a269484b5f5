"""Records of a bucket: compare-and-set with one error, audited, visible to their writer at once."""

from collections.abc import AsyncIterator

import pytest

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore, Records
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.audit import AuditedChange
from schemas.base import Role
from schemas.errors import Conflict
from schemas.usage import Report, UsageQuery
from tests.support import Yard


def report(title: str) -> Report:
    return Report(report="daily", query=UsageQuery(), title=title)


@pytest.fixture
async def monitor(yard: Yard) -> Bus:
    return await yard.bus(Role.MONITOR)


@pytest.fixture
async def records(monitor: Bus) -> AsyncIterator[Records[Report]]:
    async with Tasks() as tasks:
        yield await Records.start(
            monitor, buckets.REPORTS, tasks, "report", defaults={"shipped": report("default")}
        )


async def test_the_cache_shows_a_write_when_it_returns(records: Records[Report]) -> None:
    revision = await records.put("daily", report("one"))
    assert records.values == {"daily": report("one")}
    assert records.revision("daily") == revision
    await records.delete("daily", expected=revision)
    assert records.values == {}
    assert records.revision("daily") == 0


async def test_a_revision_that_is_not_current_is_a_conflict_with_one_sentence(
    records: Records[Report],
) -> None:
    sentence = "^The report daily was changed in the meantime; read it again.$"
    first = await records.put("daily", report("one"), expected=0)
    with pytest.raises(Conflict, match=sentence) as caught:
        await records.put("daily", report("two"), expected=0)
    assert caught.value.param == "revision"
    await records.put("daily", report("two"), expected=first)
    with pytest.raises(Conflict, match=sentence):
        await records.delete("daily", expected=first)
    assert records.values == {"daily": report("two")}


async def test_a_write_between_read_and_replace_is_a_conflict(monitor: Bus, records: Records[Report]) -> None:
    head = await records.head("daily")
    await BucketStore(monitor, buckets.REPORTS).put("daily", report("other"))
    with pytest.raises(Conflict, match=r"^reports/daily was changed in the meantime; read it again"):
        await records.replace(head, report("one"))


async def test_a_deleted_record_can_be_created_as_new(records: Records[Report]) -> None:
    await records.put("daily", report("one"))
    await records.delete("daily")
    head = await records.head("daily", expected=0)
    assert (head.value, head.revision) == (None, 0)
    assert head.last > 0
    assert await records.replace(head, report("two")) > head.last


async def test_every_change_is_noted_for_the_audit(records: Records[Report]) -> None:
    changes = audit.begin()
    await records.put("daily", report("one"))
    await records.put("daily", report("two"))
    await records.delete("daily")
    assert [(change.what, change.before and change.before["title"]) for change in changes] == [
        ("report daily", None),
        ("report daily", "one"),
        ("report daily", "two"),
    ]
    assert changes[-1].after is None


async def test_the_audit_compares_with_the_default_of_a_record_that_is_not_stored(
    records: Records[Report],
) -> None:
    changes = audit.begin()
    await records.put("shipped", report("own"))
    await records.delete("shipped")
    assert changes == [
        AuditedChange(what="report shipped", before={"title": "default"}, after={"title": "own"}),
        AuditedChange(what="report shipped", before={"title": "own"}, after={"title": "default"}),
    ]
