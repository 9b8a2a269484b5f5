"""The styles of answers that engines give."""

from schemas.endpoints import Style, endpoint_of
from schemas.requests import InferHeaders
from services.supervisor.runner.dialects.base import Dialect
from services.supervisor.runner.dialects.chat_whole import ChatWhole
from services.supervisor.runner.dialects.chunks import Chunks
from services.supervisor.runner.dialects.messages import Messages
from services.supervisor.runner.dialects.plain import Plain
from services.supervisor.runner.dialects.responses import Responses
from services.supervisor.runner.dialects.text_whole import TextWhole


def dialect_of(headers: InferHeaders) -> Dialect:
    """How the answer to this request is read."""
    match endpoint_of(headers.path).style:
        case Style.CHAT:
            return Chunks(ChatWhole(), headers.continues)
        case Style.COMPLETION:
            return Chunks(TextWhole(), headers.continues)
        case Style.RESPONSES:
            return Responses()
        case Style.MESSAGES:
            return Messages()
        case Style.PLAIN:
            return Plain(headers.content_type)
