"""The shipped alert rules. Each can be changed or switched off; a reset restores it."""

from schemas.alerts import AlertRule, Comparison, Severity

_AT_LEAST = Comparison.AT_LEAST
_WARNING, _CRITICAL = Severity.WARNING, Severity.CRITICAL

DEFAULTS = {
    rule.name: rule
    for rule in (
        AlertRule(
            name="device-hot",
            metric="yard_device_temperature_celsius",
            threshold=90,
            clear=85,
            for_s=60,
            severity=_WARNING,
            sentence="{device} of {node} is at {value} °C; it may slow down to protect itself.",
        ),
        AlertRule(
            name="memory-nearly-full",
            metric="yard_device_memory_used_ratio",
            labels={"device": "cpu"},
            threshold=0.95,
            clear=0.93,
            for_s=60,
            severity=_CRITICAL,
            sentence="The main memory of {node} is {percent} % full; the system may end an engine.",
        ),
        AlertRule(
            name="device-memory-nearly-full",
            metric="yard_device_memory_used_ratio",
            labels={"device": "!cpu"},
            threshold=0.99,
            clear=0.98,
            for_s=300,
            sentence="The memory of {device} of {node} is {percent} % full.",
        ),
        AlertRule(
            name="disk-nearly-full",
            metric="yard_host_disk_used_ratio",
            threshold=0.9,
            clear=0.88,
            for_s=60,
            sentence="The disk of {node} is {percent} % full; downloads will stop when it is full.",
        ),
        AlertRule(
            name="disk-full",
            metric="yard_host_disk_used_ratio",
            threshold=0.97,
            clear=0.95,
            for_s=30,
            severity=_CRITICAL,
            sentence="The disk of {node} is {percent} % full; the broker needs room to write.",
        ),
        AlertRule(
            name="engine-crash-loop",
            metric="yard_model_circuit_open",
            threshold=1,
            comparison=_AT_LEAST,
            severity=_CRITICAL,
            sentence="{model} failed too often in a row and is not started; `yard ps` has the reason.",
        ),
        AlertRule(
            name="queue-wait",
            metric="yard_model_blocked_seconds",
            threshold=120,
            for_s=30,
            sentence="Requests have waited {value} s for {model}.",
        ),
        AlertRule(
            name="request-errors",
            metric="yard_request_error_ratio",
            threshold=0.1,
            clear=0.05,
            for_s=120,
            sentence="{percent} % of the requests to {model} fail.",
        ),
        AlertRule(
            name="budget-nearly-used",
            metric="yard_budget_used_ratio",
            threshold=0.8,
            comparison=_AT_LEAST,
            sentence="{percent} % of the budget {budget} is used.",
        ),
        AlertRule(
            name="budget-used",
            metric="yard_budget_used_ratio",
            threshold=1,
            comparison=_AT_LEAST,
            severity=_CRITICAL,
            sentence="The budget {budget} is used up ({percent} %).",
        ),
        AlertRule(
            name="node-lost",
            metric="yard_node_up",
            threshold=1,
            comparison=Comparison.BELOW,
            for_s=30,
            severity=_CRITICAL,
            sentence="The machine {node} does not report any more.",
        ),
        AlertRule(
            name="broker-slow",
            metric="yard_broker_round_trip_seconds",
            threshold=0.5,
            clear=0.25,
            for_s=60,
            severity=_CRITICAL,
            sentence="The broker takes {value} s to answer, or has not answered for so long.",
        ),
    )
}
