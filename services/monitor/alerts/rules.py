"""The rules as they hold: those shipped, with what was changed of them, and one's own."""

import msgspec

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from schemas import buckets
from schemas.alerts import AlertRule, AlertRuleRef, AlertRuleStored, PutAlertRule, RuleRecord
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.metric_names import BY_SAMPLE_NAME
from services.monitor.alerts.defaults import DEFAULTS
from services.monitor.owned import Owned

MAX_RULES = 500


class Rules:
    """Reads and changes them."""

    def __init__(self, own: Owned[AlertRule]) -> None:
        self._own = own

    @classmethod
    async def read(cls, bus: Bus) -> "Rules":
        """As they are stored."""
        return cls(await Owned.read(bus, buckets.ALERTS))

    def all(self) -> dict[str, AlertRule]:
        """Every rule by its name, those that are switched off too."""
        return {**DEFAULTS, **self._own.values}

    def find(self, name: str) -> AlertRule:
        """NotFound if there is none."""
        rule = self.all().get(name)
        if rule is None:
            raise NotFound(
                f"There is no alert rule {name!r}; `yard alerts --rules` lists them.", param="name"
            )
        return rule

    async def records(self) -> tuple[RuleRecord, ...]:
        """By name, with the revisions that compare-and-set refers to."""
        return tuple(
            [
                RuleRecord(
                    rule=rule,
                    revision=await self._own.revision(name) if name in self._own.values else 0,
                    default=name in DEFAULTS,
                )
                for name, rule in sorted(self.all().items())
            ]
        )

    async def put(self, asked: PutAlertRule) -> AlertRuleStored:
        """A rule, new or changed."""
        if asked.metric not in BY_SAMPLE_NAME:
            raise BadRequest(
                f"There is no metric {asked.metric!r}; docs/metrics.md has them all.", param="metric"
            )
        if asked.name not in self.all() and len(self.all()) >= MAX_RULES:
            raise Conflict(f"There are {MAX_RULES} alert rules already; delete one first.")
        rule = _plain(asked)
        before = self.all().get(rule.name)
        revision = await self._own.put(rule.name, rule, expected=asked.revision)
        audit.changed(f"alert rule {rule.name}", before, rule)
        return AlertRuleStored(name=rule.name, revision=revision)

    async def delete(self, ref: AlertRuleRef) -> AlertRuleStored:
        """Take one of one's own away."""
        if ref.name in DEFAULTS:
            raise BadRequest(
                f"{ref.name} was shipped; switch it off with `yard alert set {ref.name} enabled=false`.",
                param="name",
            )
        return await self._take(ref, self.find(ref.name))

    async def reset(self, ref: AlertRuleRef) -> AlertRuleStored:
        """Have one that was shipped as it was."""
        if ref.name not in DEFAULTS:
            self.find(ref.name)
            raise BadRequest(
                f"{ref.name} is a rule of your own; there is nothing to go back to.", param="name"
            )
        if ref.name not in self._own.values:
            return AlertRuleStored(name=ref.name, revision=0)
        return await self._take(ref, self._own.values[ref.name])

    async def _take(self, ref: AlertRuleRef, before: AlertRule) -> AlertRuleStored:
        await self._own.delete(ref.name, expected=ref.revision)
        audit.changed(f"alert rule {ref.name}", before, DEFAULTS.get(ref.name))
        return AlertRuleStored(name=ref.name, revision=0)


def _plain(asked: PutAlertRule) -> AlertRule:
    fields = msgspec.structs.asdict(asked)
    del fields["revision"]
    return AlertRule(**fields)
