"""Alert rules, shipped ones with their changes and own ones, and silences."""

import time

import msgspec

from modelyard.bus.records import Records
from schemas.alerts import (
    MAX_SILENCE_S,
    AlertRule,
    AlertRuleRef,
    AlertRuleStored,
    PutAlertRule,
    RuleRecord,
    Silence,
    SilenceAlerts,
    SilenceRef,
)
from schemas.base import new_id
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.metric_names import BY_SAMPLE_NAME
from services.monitor.alerts.defaults import DEFAULTS

MAX_RULES = 500
MAX_SILENCES = 200
_MAX_REASON = 500


class AlertRules:
    """The bucket `alerts` over the shipped rules."""

    def __init__(self, records: Records[AlertRule]) -> None:
        self._records = records

    def all(self) -> dict[str, AlertRule]:
        """Every rule by its name, including those that are switched off."""
        return {**DEFAULTS, **self._records.values}

    def find(self, name: str) -> AlertRule:
        """NotFound if there is none."""
        rule = self.all().get(name)
        if rule is None:
            raise NotFound(
                f"There is no alert rule {name!r}; `yard alerts --rules` lists them.", param="name"
            )
        return rule

    def list(self) -> tuple[RuleRecord, ...]:
        """By name, with the revisions for compare-and-set."""
        return tuple(
            RuleRecord(rule=rule, revision=self._records.revision(name), default=name in DEFAULTS)
            for name, rule in sorted(self.all().items())
        )

    async def put(self, command: PutAlertRule) -> AlertRuleStored:
        if command.metric not in BY_SAMPLE_NAME:
            raise BadRequest(
                f"There is no metric {command.metric!r}; docs/metrics.md has them all.", param="metric"
            )
        if command.name not in self.all() and len(self.all()) >= MAX_RULES:
            raise Conflict(f"There are {MAX_RULES} alert rules already; delete one first.")
        fields = msgspec.structs.asdict(command)
        del fields["revision"]
        revision = await self._records.put(command.name, AlertRule(**fields), expected=command.revision)
        return AlertRuleStored(name=command.name, revision=revision)

    async def delete(self, ref: AlertRuleRef) -> AlertRuleStored:
        if ref.name in DEFAULTS:
            raise BadRequest(
                f"{ref.name} was shipped; switch it off with `yard alert set {ref.name} enabled=false`.",
                param="name",
            )
        self.find(ref.name)
        return await self._remove(ref)

    async def reset(self, ref: AlertRuleRef) -> AlertRuleStored:
        if ref.name not in DEFAULTS:
            self.find(ref.name)
            raise BadRequest(
                f"{ref.name} is a rule of your own; there is nothing to go back to.", param="name"
            )
        if ref.name not in self._records.values:
            return AlertRuleStored(name=ref.name, revision=0)
        return await self._remove(ref)

    async def _remove(self, ref: AlertRuleRef) -> AlertRuleStored:
        await self._records.delete(ref.name, expected=ref.revision)
        return AlertRuleStored(name=ref.name, revision=0)


class Silences:
    """The bucket `silences`, whose records expire."""

    def __init__(self, records: Records[Silence]) -> None:
        self._records = records

    def active(self) -> tuple[Silence, ...]:
        """The active silences, the first to end first."""
        now = time.time()
        active = [silence for silence in self._records.values.values() if silence.until > now]
        return tuple(sorted(active, key=lambda silence: silence.until))

    async def put(self, command: SilenceAlerts) -> Silence:
        if not 1 <= command.for_s <= MAX_SILENCE_S:
            raise BadRequest("A silence lasts from one second to 366 days.", param="for_s")
        if not command.reason.strip() or len(command.reason) > _MAX_REASON:
            raise BadRequest(f"Say why, in at most {_MAX_REASON} characters.", param="reason")
        if command.rule is None and not command.labels:
            raise BadRequest("Say what is to be silent: a rule, labels, or both.", param="rule")
        if len(self.active()) >= MAX_SILENCES:
            raise Conflict(f"There are {MAX_SILENCES} silences already; end one first.")
        now = time.time()
        silence = Silence(
            silence=new_id(),
            until=now + command.for_s,
            reason=command.reason.strip(),
            created_at=now,
            rule=command.rule,
            labels=command.labels,
        )
        await self._records.put(silence.silence, silence, ttl_s=int(command.for_s) + 1)
        return silence

    async def end(self, ref: SilenceRef) -> Silence:
        """End a silence now; NotFound."""
        silence = next((silence for silence in self.active() if silence.silence == ref.silence), None)
        if silence is None:
            raise NotFound(f"There is no silence {ref.silence!r}; `yard alerts` lists them.", param="silence")
        await self._records.delete(silence.silence)
        return silence
