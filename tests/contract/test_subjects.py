"""What holds for every subject there is, and for every one that will be added."""

import itertools

import msgspec
import pytest

from schemas import streams, subjects
from schemas.base import SERVICES, Role
from schemas.subject import AnySubject, Command, Kind, Subject

TEMPLATES = [subject.template for subject in subjects.ALL]
BAD_TOKENS = ["", ".", "a.b", "*", ">", "a b", "a\n", "ä", "a/b", "a:b", "$JS", "{x}", "\0"]


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both NATS patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in itertools.zip_longest(left, right):
        if a is None or b is None:
            return False
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*.c", "a.b.*", True),
        ("a.*.c", "a.b.d", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b.>", "a.*.c.d", True),
        ("a.b.>", "a.c.>", False),
        (">", "a", True),
    ],
)
def test_the_overlap_check_handles_wildcards(one: str, other: str, both: bool) -> None:
    assert overlap(one, other) is both
    assert overlap(other, one) is both


def test_no_two_subjects_overlap() -> None:
    for one, other in itertools.combinations(subjects.ALL, 2):
        assert not overlap(one.wildcard, other.wildcard), f"{one} and {other} match the same messages"


def test_every_constant_is_listed_once() -> None:
    declared = [value for value in vars(subjects).values() if isinstance(value, Subject)]
    assert list(subjects.ALL) == declared
    assert len(set(TEMPLATES)) == len(TEMPLATES)


@pytest.mark.parametrize("subject", subjects.ALL, ids=TEMPLATES)
def test_a_subject_parses_the_tokens_it_was_built_with(subject: AnySubject) -> None:
    tokens = {name: f"{name}-1_=2F" for name in subject.tokens}
    built = subject(**tokens)
    assert subject.parse(built) == tokens
    assert overlap(built, subject.wildcard)
    assert subject.matching() == subject.wildcard
    assert subject.matching(**tokens) == built
    for other in subjects.ALL:
        if other is not subject:
            with pytest.raises(ValueError, match="is not"):
                other.parse(built)


@pytest.mark.parametrize("subject", subjects.ALL, ids=TEMPLATES)
def test_the_second_token_is_the_kind(subject: AnySubject) -> None:
    first, kind, *rest = subject.template.split(".")
    assert first == "yard"
    assert kind == subject.kind
    assert rest
    assert isinstance(subject, Command) is (subject.kind is Kind.COMMAND)


@pytest.mark.parametrize("subject", subjects.ALL, ids=TEMPLATES)
def test_templates_follow_the_grammar(subject: AnySubject) -> None:
    for token in subject.template.split("."):
        plain = token.strip("{}")
        assert token in (plain, f"{{{plain}}}")
        assert plain.isascii()
        assert plain.isidentifier()
        assert plain == plain.lower()
    assert len(set(subject.tokens)) == len(subject.tokens)


@pytest.mark.parametrize("subject", subjects.ALL, ids=TEMPLATES)
def test_every_subject_has_a_summary_and_publishers(subject: AnySubject) -> None:
    assert subject.summary.endswith(".")
    assert subject.summary[0].isupper()
    assert subject.publish or subject is subjects.STORED, "only the broker itself publishes that"
    stream = streams.BY_KIND.get(subject.kind)
    assert subject.subscribe or (stream is not None and (stream.readers or stream.workers or stream.fetchers))


@pytest.mark.parametrize("command", subjects.COMMANDS, ids=lambda command: command.template)
def test_a_command_has_one_server_and_its_callers(command: Command) -> None:  # type: ignore[type-arg]
    assert command.server in SERVICES
    assert command.subscribe == {command.server}
    assert command.publish
    assert Role.RUNNER not in command.publish or command in (subjects.ANSWER_CHECK, subjects.NODE_WORKER)


@pytest.mark.parametrize("bad", BAD_TOKENS)
def test_a_token_with_separators_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="not a subject token"):
        subjects.CANCEL(request=bad)
    with pytest.raises(ValueError, match="not a subject token"):
        subjects.ANSWER.matching(gateway=bad)


@pytest.mark.parametrize("tokens", [{}, {"model": "m"}, {"request": "r", "model": "m"}])
def test_missing_and_unknown_tokens_are_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="takes"):
        subjects.CANCEL(**tokens)


@pytest.mark.parametrize(
    "subject", ["yard.cancel", "yard.cancel.a.b", "yard.cancelXa", "xyard.cancel.a", "yard.cancel."]
)
def test_parse_refuses_another_subject(subject: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        subjects.CANCEL.parse(subject)


def test_every_kind_is_used() -> None:
    """A kind without subjects would be open to everybody, since permissions ask about all of a kind."""
    assert {subject.kind for subject in subjects.ALL} == set(Kind)


def test_streams_do_not_overlap() -> None:
    for one, other in itertools.combinations(streams.ALL, 2):
        assert not overlap(one.subject, other.subject)
    for subject in subjects.ALL:
        kept = [stream for stream in streams.ALL if overlap(stream.subject, subject.wildcard)]
        assert kept == [stream for stream in streams.ALL if stream.kind is subject.kind]


@pytest.mark.parametrize(
    ("subject", "event_type"),
    [
        ("yard.event.model.m1.put", "yard.event.model.put"),
        ("yard.event.instance.i1.ready", "yard.event.instance.ready"),
        ("yard.event.request.demo.r1.finished", "yard.event.request.finished"),
    ],
)
def test_the_type_of_an_event_has_no_ids(subject: str, event_type: str) -> None:
    assert subjects.MODEL_CHANGED.event_type(subject) == event_type


def test_byte_payloads_pass_unchanged() -> None:
    assert subjects.INFER.encode(b"\xff{") == b"\xff{"
    assert subjects.INFER.decode(b"\xff{") == b"\xff{"
    assert subjects.OPENAI.encode_reply(b"") == b""
    assert subjects.OPENAI.decode_reply(b"x") == b"x"


QUESTIONS = {
    *(subjects.MODEL_GET, subjects.MODEL_LIST, subjects.MODEL_HISTORY, subjects.MODEL_PLAN),
    *(subjects.LIBRARY_SHOW, subjects.LIBRARY_CACHED, subjects.LIBRARY_FIND, subjects.LIBRARY_SCAN),
    *(subjects.ALERT_LIST, subjects.ALERT_TEST, subjects.WEBHOOK_LIST, subjects.WEBHOOK_TEST),
    *(subjects.PRICE_GET, subjects.PRICE_LIST, subjects.BUDGET_GET, subjects.BUDGET_LIST),
    *(subjects.REPORT_GET, subjects.REPORT_LIST, subjects.REPORT_RUN, subjects.STORAGE_REPORT),
    *(subjects.USAGE_QUERY, subjects.USAGE_RECORDS, subjects.USAGE_FORECAST),
    *(subjects.METRICS_QUERY, subjects.METRICS_NOW, subjects.METRICS_EXPOSE),
    *(subjects.HUB_SEARCH, subjects.HUB_OFFER),
    *(subjects.GROUP_LIST, subjects.OPENAI),
}


@pytest.mark.parametrize("command", subjects.COMMANDS, ids=lambda command: command.template)
def test_every_command_of_the_operator_with_side_effects_is_audited(command: Command) -> None:  # type: ignore[type-arg]
    if not command.publish & {Role.GATEWAY, Role.OPERATOR}:
        # Commands between services have events of their own.
        assert command.changes is None
        return
    assert (command.changes is None) == (command in QUESTIONS)
    if command.changes:
        named = {*command.tokens, *(field.name for field in msgspec.structs.fields(command.payload))}
        assert command.changes in named
        assert command.server in subjects.AUDITED.publish
