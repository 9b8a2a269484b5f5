"""Invitations: what they say, and what is refused of those who come with them."""

import msgspec
import pytest

from modelyard.up.invitation import (
    MEMBER_ROLES,
    Invitation,
    Knock,
    Unfit,
    Welcome,
    check,
    read,
    sign,
    spell,
    verified,
)
from schemas.base import Role

KEY = "U" + "A" * 55
KNOCK = Knock(node="b", version="1", keys=dict.fromkeys(MEMBER_ROLES, KEY))


def test_an_invitation_is_one_word_that_can_be_read_again() -> None:
    invitation = Invitation(hosts=("192.0.2.1",), port=4223, secret="s", yard="y")
    assert read(f" {spell(invitation)}\n") == invitation
    assert " " not in spell(invitation)


@pytest.mark.parametrize("word", ["", "hello", "yard-invitation-", "yard-invitation-e30", "ü"])
def test_what_is_no_invitation_is_told_so(word: str) -> None:
    with pytest.raises(Unfit, match="yard invite"):
        read(word)


def test_a_message_is_believed_only_under_the_same_secret() -> None:
    assert verified(sign(KNOCK, "one"), Knock, "one") == KNOCK
    for line in (sign(KNOCK, "two"), b"", b"{}", sign(KNOCK, "one").replace(b'"node":"b"', b'"node":"c"')):
        with pytest.raises(Unfit, match="does not know this invitation"):
            verified(line, Knock, "one")


def test_nothing_secret_is_in_a_message() -> None:
    assert b"a-secret" not in sign(KNOCK, "a-secret") + sign(Welcome(yard="y"), "a-secret")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"node": "b.c"}, "YARD_NODE"),
        ({"node": "../../etc"}, "YARD_NODE"),
        ({"keys": {Role.SUPERVISOR: KEY}}, "other services"),
        ({"keys": dict.fromkeys((*MEMBER_ROLES, Role.GATEWAY), KEY)}, "--gateway"),
        ({"keys": dict.fromkeys(MEMBER_ROLES, "SUAM")}, "public keys"),
    ],
)
def test_a_machine_gets_no_more_than_it_was_invited_to(changed: dict[str, object], why: str) -> None:
    with pytest.raises(Unfit, match=why):
        check(msgspec.structs.replace(KNOCK, **changed), MEMBER_ROLES)
