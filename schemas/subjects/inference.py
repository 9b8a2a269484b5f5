"""Inference requests, from a client to an engine and back."""

from schemas.base import (
    GATEWAY,
    MONITOR,
    OPERATOR,
    RUNNER,
    SUPERVISOR,
    WATCHERS,
)
from schemas.batches import LineResult
from schemas.frames import AnswerCheck, AnswerCheckReply, Resend
from schemas.requests import RequestFinished, RequestQueued, RequestStarted
from schemas.subject import Command, Subject

ANSWER_CHECK = Command(
    "yard.command.gateway.{gateway}.check",
    AnswerCheck,
    AnswerCheckReply,
    callers=(RUNNER,),
    server=GATEWAY,
    summary="A runner checks which of its answers still have a waiting client.",
)
OPENAI = Command(
    "yard.command.openai.{endpoint}",
    bytes,
    bytes,
    callers=(OPERATOR,),
    server=GATEWAY,
    summary="Inference over NATS: the same JSON; the answer in several replies, an empty one last.",
)
REQUEST_QUEUED = Subject(
    "yard.event.request.{model}.{request}.queued",
    RequestQueued,
    publish=(GATEWAY,),
    subscribe=(*WATCHERS, SUPERVISOR, RUNNER),
    summary="An inference request is queued for a slot.",
)
REQUEST_STARTED = Subject(
    "yard.event.request.{model}.{request}.started",
    RequestStarted,
    publish=(RUNNER,),
    subscribe=WATCHERS,
    summary="A runner took the request.",
)
REQUEST_FINISHED = Subject(
    "yard.event.request.{model}.{request}.finished",
    RequestFinished,
    publish=(GATEWAY, RUNNER),
    subscribe=(*WATCHERS, MONITOR),
    summary="The request ended; this is its usage record.",
)
INFER = Subject(
    "yard.infer.{model}.{lane}.{key}",
    bytes,
    publish=(GATEWAY,),
    subscribe=(),
    summary="An inference request with the client's body. One queue per key, served in turns.",
)
BODY = Subject(
    "yard.body.{request}.{part}",
    bytes,
    publish=(GATEWAY,),
    subscribe=(),
    summary="A chunk of a request body too large for one message: 0, 1, 2, ….",
)
FILE = Subject(
    "yard.file.{file}.{part}",
    bytes,
    publish=(GATEWAY,),
    subscribe=(),
    summary="A chunk of a file: 0, 1, 2, ….",
)
RESULT = Subject(
    "yard.result.{batch}.{line}",
    LineResult,
    publish=(GATEWAY,),
    subscribe=(),
    summary="The answer to one line of a batch.",
)
CANCEL = Subject(
    "yard.cancel.{request}",
    bytes,
    publish=(GATEWAY, OPERATOR),
    subscribe=(GATEWAY, RUNNER),
    summary="Cancel a request.",
)
RESEND = Subject(
    "yard.resend.{request}",
    Resend,
    publish=(GATEWAY,),
    subscribe=(RUNNER,),
    summary="Resend lost frames of an answer.",
)
ANSWER = Subject(
    "yard.reply.{gateway}.{request}.frame",
    bytes,
    publish=(RUNNER,),
    subscribe=(GATEWAY,),
    summary="One frame of an answer: a line of JSON that numbers it, then bytes of the answer.",
)
STORED = Subject(
    "yard.reply.{gateway}.{request}.stored",
    bytes,
    publish=(),
    subscribe=(GATEWAY,),
    summary="The broker's acknowledgement of a queued request, or its refusal.",
)
