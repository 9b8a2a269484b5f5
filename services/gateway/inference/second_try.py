"""After the death of an engine or a runner: who asks again, and from where."""

from schemas.base import Record
from schemas.errors import EngineFailed
from schemas.requests import Continues
from services.gateway.inference.answer import Answer
from services.gateway.inference.continuation import continued

MAX_DEATHS = 2
"""A request at which so many engines died is not tried again."""
LAST_EVENT = b"data: [DONE]\n\n"


class AskAgain(Record):
    """Ask somebody else, with this body."""

    body: bytes
    continues: Continues | None = None


class GiveUp(Record):
    """Tell the client."""

    message: str


class Finish(Record):
    """All was said but the last word."""

    last: bytes = LAST_EVENT


def second_try(answer: Answer) -> AskAgain | Finish | GiveUp:
    """What is to be done about an answer whose engine died, for the `answer.deaths`th time."""
    if answer.deaths >= MAX_DEATHS:
        return GiveUp(message="The engine died twice at this request; it is not tried again.")
    if not answer.begun:
        return AskAgain(body=answer.ask.body)
    if answer.transcript is None:
        return GiveUp(message=str(runner_died()))
    rest = continued(answer.ask.body, answer.ask.endpoint.style, answer.transcript)
    if answer.transcript.finished:
        return Finish()
    if rest is None:
        return GiveUp(message=str(runner_died()))
    return AskAgain(body=rest, continues=answer.transcript.continues())


def runner_died() -> EngineFailed:
    """What a client is told whose answer broke off for good."""
    return EngineFailed("The engine broke off while it answered; please try again.")
