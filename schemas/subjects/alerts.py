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
from schemas.base import (
    AUDITING,
    CALLERS,
    MONITOR,
    WATCHERS,
)
from schemas.subject import Command, Subject
from schemas.webhooks import (
    ListWebhooks,
    PutWebhook,
    Webhook,
    WebhookList,
    WebhookRef,
    WebhookStored,
    WebhookTested,
)

ALERT_LIST = Command(
    "yard.command.alert.list",
    ListAlerts,
    AlertList,
    callers=CALLERS,
    server=MONITOR,
    summary="All alert rules, alerts and silences.",
)
ALERT_PUT = Command(
    "yard.command.alert.put",
    PutAlertRule,
    AlertRuleStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Create or change an alert rule, including a shipped one.",
    changes="name",
)
ALERT_DELETE = Command(
    "yard.command.alert.delete",
    AlertRuleRef,
    AlertRuleStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Delete an alert rule; shipped rules are disabled instead.",
    changes="name",
)
ALERT_RESET = Command(
    "yard.command.alert.reset",
    AlertRuleRef,
    AlertRuleStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Restore a shipped alert rule to its default.",
    changes="name",
)
ALERT_SILENCE = Command(
    "yard.command.alert.silence",
    SilenceAlerts,
    Silence,
    callers=CALLERS,
    server=MONITOR,
    summary="Mute alerts for a while, with a reason.",
    changes="rule",
)
ALERT_UNSILENCE = Command(
    "yard.command.alert.unsilence",
    SilenceRef,
    Silence,
    callers=CALLERS,
    server=MONITOR,
    summary="End a silence now.",
    changes="silence",
)
ALERT_TEST = Command(
    "yard.command.alert.test",
    EvaluateAlertRule,
    AlertRuleEvaluated,
    callers=CALLERS,
    server=MONITOR,
    summary="Evaluate a rule now, without side effects.",
)
WEBHOOK_PUT = Command(
    "yard.command.webhook.put",
    PutWebhook,
    WebhookStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Deliver events to a URL; the reply contains the secret, this once.",
    changes="name",
)
WEBHOOK_LIST = Command(
    "yard.command.webhook.list",
    ListWebhooks,
    WebhookList,
    callers=CALLERS,
    server=MONITOR,
    summary="All webhooks and their delivery state.",
)
WEBHOOK_DELETE = Command(
    "yard.command.webhook.delete",
    WebhookRef,
    Webhook,
    callers=CALLERS,
    server=MONITOR,
    summary="Delete a webhook.",
    changes="name",
)
WEBHOOK_TEST = Command(
    "yard.command.webhook.test",
    WebhookRef,
    WebhookTested,
    callers=CALLERS,
    server=MONITOR,
    summary="Send a test delivery to a webhook and return the result.",
    timeout_s=20.0,
)
ALERT_CHANGED = Subject(
    "yard.event.alert.{alert}.{state}",
    Alert,
    publish=(MONITOR,),
    subscribe=WATCHERS,
    summary="An alert is pending, firing or resolved.",
)
AUDITED = Subject(
    "yard.event.audit.{command}.{outcome}",
    Audited,
    publish=AUDITING,
    subscribe=WATCHERS,
    summary="A command changed something or was refused; `command` is its noun and verb.",
)
