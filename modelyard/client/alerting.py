"""Alerts and webhooks for scripts."""

from modelyard.bus.connection import Bus
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
    TryAlertRule,
)
from schemas.webhooks import (
    ListWebhooks,
    PutWebhook,
    Webhook,
    WebhookRecord,
    WebhookRef,
    WebhookStored,
    WebhookTested,
)


class Alerting:
    """Reads and changes who is told of what."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def alerts(self) -> AlertList:
        """Rules, what they found, and silences."""
        return await self._bus.call(subjects.ALERT_LIST, ListAlerts())

    async def put_rule(self, rule: PutAlertRule) -> AlertRuleStored:
        """A rule, new or in place of the one of its name."""
        return await self._bus.call(subjects.ALERT_PUT, rule)

    async def delete_rule(self, name: str) -> AlertRuleStored:
        """Take a rule of one's own away."""
        return await self._bus.call(subjects.ALERT_DELETE, AlertRuleRef(name=name))

    async def reset_rule(self, name: str) -> AlertRuleStored:
        """Have a shipped rule as it was shipped."""
        return await self._bus.call(subjects.ALERT_RESET, AlertRuleRef(name=name))

    async def test_rule(self, name: str | None = None, rule: AlertRule | None = None) -> AlertRuleTried:
        """What a rule would find now."""
        return await self._bus.call(subjects.ALERT_TEST, TryAlertRule(name=name, rule=rule))

    async def silence(self, asked: SilenceAlerts) -> Silence:
        """Do not tell some alerts for a while."""
        return await self._bus.call(subjects.ALERT_SILENCE, asked)

    async def unsilence(self, silence: str) -> Silence:
        """End a silence now."""
        return await self._bus.call(subjects.ALERT_UNSILENCE, SilenceRef(silence=silence))

    async def webhooks(self) -> tuple[WebhookRecord, ...]:
        """Who is told, and how well."""
        return (await self._bus.call(subjects.WEBHOOK_LIST, ListWebhooks())).webhooks

    async def put_webhook(self, webhook: PutWebhook) -> WebhookStored:
        """Tell a URL; the answer has the secret, this once."""
        return await self._bus.call(subjects.WEBHOOK_PUT, webhook)

    async def delete_webhook(self, name: str) -> Webhook:
        """Tell a URL nothing more."""
        return await self._bus.call(subjects.WEBHOOK_DELETE, WebhookRef(name=name))

    async def test_webhook(self, name: str) -> WebhookTested:
        """Tell a hook something now."""
        return await self._bus.call(subjects.WEBHOOK_TEST, WebhookRef(name=name))
