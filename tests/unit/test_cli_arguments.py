"""Arguments derived from the contract: their names, values and texts."""

import argparse
from decimal import Decimal

import pytest

from modelyard.cli.accounts import parse_share, parse_tier
from modelyard.cli.arguments import add_fields, parse_moment, parse_rate, read_record
from modelyard.cli.hub import parse_params
from modelyard.cli.parser import VERBS, VerbParser, parser
from modelyard.documents import field_docs
from schemas.alerts import EvaluateAlertRule, SilenceAlerts
from schemas.budgets import PutBudget
from schemas.downloads import StartDownload
from schemas.errors import BadRequest
from schemas.hub import Choice, SearchHub
from schemas.registry import ModelOverrides
from schemas.usage import Period, UsageUnit


def parsed(record: type, line: str, *positional: str) -> argparse.Namespace:
    verb = VerbParser(prog="verb")
    add_fields(verb, record, positional=positional)
    return verb.parse_args(line.split())


def test_types_defaults_and_enums_come_from_the_record() -> None:
    line = "house --limit 2.50 --unit tokens --warn-at 0.5"
    budget = read_record(parsed(PutBudget, line, "budget"), PutBudget)
    assert (budget.budget, budget.limit, budget.unit) == ("house", Decimal("2.50"), UsageUnit.TOKENS)
    assert (budget.period, budget.warn_at, budget.revision) == (Period.MONTH, Decimal("0.5"), None)


def test_nested_records_lists_and_negated_flags_are_flat_arguments() -> None:
    line = "r --include a --include b --alias x --ctx 4096 --no-register --limit 20kB"
    command = read_record(parsed(StartDownload, line, "reference"), StartDownload)
    assert command.choice == Choice(include=("a", "b"))
    assert command.overrides == ModelOverrides(aliases=("x",), n_ctx=4096)
    assert (command.register, command.limit_bytes_s) == (False, 20_000)
    assert read_record(parsed(StartDownload, "r", "reference"), StartDownload) == StartDownload(reference="r")


def test_pairs_become_a_dictionary_and_seconds_a_duration() -> None:
    line = "--for 2h --reason because --label node=a --label model=b"
    silence = read_record(parsed(SilenceAlerts, line, "rule"), SilenceAlerts)
    assert (silence.for_s, silence.rule) == (7200.0, None)
    assert silence.labels == {"node": "a", "model": "b"}


def test_an_omitted_nested_record_is_not_read_from_arguments_of_the_same_name() -> None:
    verb = VerbParser(prog="verb")
    add_fields(verb, EvaluateAlertRule, positional=("name",), omit=("rule",))
    command = read_record(verb.parse_args(["mine"]), EvaluateAlertRule, omit=("rule",))
    assert command == EvaluateAlertRule(name="mine")


def test_a_broken_rule_of_the_record_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="limit must be between 1 and 100"):
        read_record(parsed(SearchHub, "--limit 1000"), SearchHub)


@pytest.mark.parametrize("line", ["house", "house --limit x", "house --limit 1 --unit euros", "--limit 1"])
def test_a_wrong_argument_is_a_usage_error(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(PutBudget, line, "budget")
    assert "usage: verb" in capsys.readouterr().err


def test_help_texts_are_the_docstrings_of_the_contract() -> None:
    assert field_docs(PutBudget)["limit"] == "How much may be used in a period."
    verb = VerbParser(prog="verb")
    add_fields(verb, PutBudget, positional=("budget",))
    assert "how much may be used in a period" in verb.format_help()
    assert "(default: money)" in verb.format_help()


def test_every_verb_has_a_module_that_fills_its_parser() -> None:
    yard = parser()
    for verb in VERBS:
        yard.verbs[verb.name].complete()
        assert yard.verbs[verb.name].arguments or yard.verbs[verb.name].verbs
        assert verb.summary.endswith(".")


@pytest.mark.parametrize(("text", "rate"), [("500kB", 500_000), ("1.5MiB/s", 1_572_864), ("none", None)])
def test_a_rate_is_parsed(text: str, rate: int | None) -> None:
    assert parse_rate(text) == rate


def test_shares_weights_tiers_and_moments_are_parsed() -> None:
    assert parse_share("80%") == parse_share("0.8") == Decimal("0.8")
    assert parse_params("8B") == 8_000_000_000
    assert parse_tier("prompt=0-9,input=1") == {
        "min_prompt_tokens": 0,
        "max_prompt_tokens": 9,
        "input": Decimal(1),
    }
    assert parse_moment("24h").ago_s == 86_400
    assert parse_moment("2026-11-01").timestamp("UTC") == 1_793_491_200


@pytest.mark.parametrize("parse", [parse_rate, parse_params, parse_tier, parse_moment, parse_share])
def test_an_invalid_value_is_an_argument_error(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(argparse.ArgumentTypeError):
        parse("nothing like it")
