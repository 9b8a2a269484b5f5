"""What somebody should know, who is told, and who changed what."""

from schemas.alerts import (
    Alert,
    AlertList,
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
    summary="Alert rules, what they found, and silences.",
)
ALERT_PUT = Command(
    "yard.command.alert.put",
    PutAlertRule,
    AlertRuleStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Put an alert rule, new or changed; also one that was shipped.",
    changes="name",
)
ALERT_DELETE = Command(
    "yard.command.alert.delete",
    AlertRuleRef,
    AlertRuleStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Take an alert rule away; those shipped are switched off instead.",
    changes="name",
)
ALERT_RESET = Command(
    "yard.command.alert.reset",
    AlertRuleRef,
    AlertRuleStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Have a shipped alert rule as it was shipped.",
    changes="name",
)
ALERT_SILENCE = Command(
    "yard.command.alert.silence",
    SilenceAlerts,
    Silence,
    callers=CALLERS,
    server=MONITOR,
    summary="Do not tell some alerts for a while, and say why.",
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
    TryAlertRule,
    AlertRuleTried,
    callers=CALLERS,
    server=MONITOR,
    summary="What a rule would find now; nothing is done.",
)
WEBHOOK_PUT = Command(
    "yard.command.webhook.put",
    PutWebhook,
    WebhookStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Have a URL told what happens; its secret is in the answer, this once.",
    changes="name",
)
WEBHOOK_LIST = Command(
    "yard.command.webhook.list",
    ListWebhooks,
    WebhookList,
    callers=CALLERS,
    server=MONITOR,
    summary="Who is told what happens, and how well.",
)
WEBHOOK_DELETE = Command(
    "yard.command.webhook.delete",
    WebhookRef,
    Webhook,
    callers=CALLERS,
    server=MONITOR,
    summary="Tell a URL nothing more.",
    changes="name",
)
WEBHOOK_TEST = Command(
    "yard.command.webhook.test",
    WebhookRef,
    WebhookTested,
    callers=CALLERS,
    server=MONITOR,
    summary="Tell a hook something now, and say how that went.",
    timeout_s=20.0,
)
ALERT_CHANGED = Subject(
    "yard.event.alert.{alert}.{state}",
    Alert,
    publish=(MONITOR,),
    subscribe=WATCHERS,
    summary="An alert is pending, fires, or is over.",
)
AUDITED = Subject(
    "yard.event.audit.{command}.{outcome}",
    Audited,
    publish=AUDITING,
    subscribe=WATCHERS,
    summary="A command changed something, or was refused; `command` is its noun and verb.",
)
