"""Alerts, webhooks and the audit trail."""

from schemas.alerts import (
    Alert,
    AlertList,
    AlertRuleEvaluated,
    AlertRuleRef,
    AlertRuleStored,
    EvaluateAlertRule,
    ListAlerts,
    PutAlertRule,
    Silence,
    SilenceAlerts,
    SilenceRef,
)
from schemas.audit import Audited
from schemas.base import AUDITING, MONITOR
from schemas.subject import CommandDeclarer, Subject
from schemas.webhooks import (
    ListWebhooks,
    PutWebhook,
    Webhook,
    WebhookList,
    WebhookRef,
    WebhookStored,
    WebhookTested,
)

_command = CommandDeclarer(MONITOR)

ALERT_LIST = _command("alert.list", ListAlerts, AlertList, "All alert rules, alerts and silences.")
ALERT_PUT = _command.change(
    "alert.put", PutAlertRule, AlertRuleStored, "Create or change an alert rule, including a shipped one."
)
ALERT_DELETE = _command.change(
    "alert.delete", AlertRuleRef, AlertRuleStored, "Delete an alert rule; shipped rules are disabled instead."
)
ALERT_RESET = _command.change(
    "alert.reset", AlertRuleRef, AlertRuleStored, "Restore a shipped alert rule to its default."
)
ALERT_SILENCE = _command(
    "alert.silence", SilenceAlerts, Silence, "Mute alerts for a while, with a reason.", changes="rule"
)
ALERT_UNSILENCE = _command.change("alert.unsilence", SilenceRef, Silence, "End a silence now.")
ALERT_TEST = _command(
    "alert.test", EvaluateAlertRule, AlertRuleEvaluated, "Evaluate a rule now, without side effects."
)
WEBHOOK_PUT = _command.change(
    "webhook.put",
    PutWebhook,
    WebhookStored,
    "Deliver events to a URL; the reply contains the secret, this once.",
)
WEBHOOK_LIST = _command("webhook.list", ListWebhooks, WebhookList, "All webhooks and their delivery state.")
WEBHOOK_DELETE = _command.change("webhook.delete", WebhookRef, Webhook, "Delete a webhook.")
WEBHOOK_TEST = _command(
    "webhook.test",
    WebhookRef,
    WebhookTested,
    "Send a test delivery to a webhook and return the result.",
    timeout_s=20.0,
)
ALERT_CHANGED = Subject(
    "yard.event.alert.{alert}.{state}", Alert, "An alert is pending, firing or resolved.", publish=(MONITOR,)
)
AUDITED = Subject(
    "yard.event.audit.{command}.{outcome}",
    Audited,
    "A command changed something or was refused; `command` is its noun and verb.",
    publish=AUDITING,
)
