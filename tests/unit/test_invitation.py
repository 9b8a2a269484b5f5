"""Invitations: what they say, and what is refused of those who come with them."""

import msgspec
import pytest

from modelyard.up.invitation import (
    MEMBER_ROLES,
    InvalidInvitation,
    Invitation,
    JoinReply,
    JoinRequest,
    check,
    decode,
    encode,
    sign,
    verified,
)
from schemas.base import Role

KEY = "U" + "A" * 55
REQUEST = JoinRequest(node="b", version="1", keys=dict.fromkeys(MEMBER_ROLES, KEY))


def test_an_invitation_encodes_to_one_word_and_back() -> None:
    invitation = Invitation(hosts=("192.0.2.1",), port=4223, secret="s", yard="y")
    assert decode(f" {encode(invitation)}\n") == invitation
    assert " " not in encode(invitation)


@pytest.mark.parametrize("word", ["", "hello", "yard-invitation-", "yard-invitation-e30", "ü"])
def test_an_invalid_invitation_is_refused(word: str) -> None:
    with pytest.raises(InvalidInvitation, match="yard invite"):
        decode(word)


def test_a_message_verifies_only_with_the_same_secret() -> None:
    assert verified(sign(REQUEST, "one"), JoinRequest, "one") == REQUEST
    for line in (
        sign(REQUEST, "two"),
        b"",
        b"{}",
        sign(REQUEST, "one").replace(b'"node":"b"', b'"node":"c"'),
    ):
        with pytest.raises(InvalidInvitation, match="does not know this invitation"):
            verified(line, JoinRequest, "one")


def test_a_message_contains_no_secret() -> None:
    assert b"a-secret" not in sign(REQUEST, "a-secret") + sign(JoinReply(yard="y"), "a-secret")


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
def test_a_join_request_beyond_its_invitation_is_refused(changed: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidInvitation, match=why):
        check(msgspec.structs.replace(REQUEST, **changed), MEMBER_ROLES)
