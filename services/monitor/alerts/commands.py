"""The `alert` commands."""

from modelyard.bus.micro import Commands
from schemas import subjects
from schemas.alerts import (
    AlertList,
    AlertRule,
    AlertRuleRef,
    AlertRuleStored,
    AlertRuleTried,
    ListAlerts,
    PutAlertRule,
    Silence,
    SilenceAlerts,
    SilenceRef,
    TriedSeries,
    TryAlertRule,
)
from schemas.errors import BadRequest
from services.monitor.alerts.evaluate import MAX_SERIES
from services.monitor.alerts.keeper import Keeper
from services.monitor.alerts.matching import past, sentence, series_of
from services.monitor.alerts.rules import Rules
from services.monitor.alerts.silences import Silences


class AlertCommands:
    """Answers them, and has what follows from a change seen at once."""

    def __init__(self, keeper: Keeper, rules: Rules, silences: Silences) -> None:
        self._keeper = keeper
        self._rules = rules
        self._silences = silences

    async def add_to(self, commands: Commands) -> None:
        """Answer from now on."""
        await commands.add(subjects.ALERT_LIST, self.list)
        await commands.add(subjects.ALERT_PUT, self.put)
        await commands.add(subjects.ALERT_DELETE, self.delete)
        await commands.add(subjects.ALERT_RESET, self.reset)
        await commands.add(subjects.ALERT_SILENCE, self.silence)
        await commands.add(subjects.ALERT_UNSILENCE, self.unsilence)
        await commands.add(subjects.ALERT_TEST, self.test)

    async def list(self, _asked: ListAlerts) -> AlertList:
        """Everything there is to show."""
        return AlertList(
            rules=await self._rules.records(),
            alerts=self._keeper.alerts(),
            silences=self._silences.now(),
        )

    async def put(self, asked: PutAlertRule) -> AlertRuleStored:
        """A rule, new or changed."""
        stored = await self._rules.put(asked)
        self._keeper.wake()
        return stored

    async def delete(self, ref: AlertRuleRef) -> AlertRuleStored:
        """Take a rule of one's own away."""
        stored = await self._rules.delete(ref)
        self._keeper.wake()
        return stored

    async def reset(self, ref: AlertRuleRef) -> AlertRuleStored:
        """Have a shipped rule as it was shipped."""
        stored = await self._rules.reset(ref)
        self._keeper.wake()
        return stored

    async def silence(self, asked: SilenceAlerts) -> Silence:
        """Begin a silence; NotFound for a rule that there is not."""
        if asked.rule is not None:
            self._rules.find(asked.rule)
        silence = await self._silences.put(asked)
        self._keeper.wake()
        return silence

    async def unsilence(self, ref: SilenceRef) -> Silence:
        """End a silence."""
        silence = await self._silences.end(ref)
        self._keeper.wake()
        return silence

    async def test(self, asked: TryAlertRule) -> AlertRuleTried:
        """What a rule would find now."""
        rule = asked.rule or (self._rules.find(asked.name) if asked.name else None)
        if rule is None:
            raise BadRequest("Name a rule, or give one.", param="name")
        found = list(series_of(rule, self._keeper.samples()))[:MAX_SERIES]
        return AlertRuleTried(series=tuple(_tried(rule, each.labels, each.value) for each in found))


def _tried(rule: AlertRule, labels: dict[str, str], value: float) -> TriedSeries:
    return TriedSeries(
        labels=labels,
        value=value,
        holds=past(rule, value, holding=False),
        sentence=sentence(rule, labels, value),
    )
