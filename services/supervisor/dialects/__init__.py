"""How the answers of engines are read, by the style of their endpoint."""

from schemas.requests import InferHeaders, Style, endpoint_of
from services.supervisor.dialects.base import Dialect, Plain
from services.supervisor.dialects.completions import Completions
from services.supervisor.dialects.typed_events import Messages, Responses
from services.supervisor.dialects.whole import WholeChat, WholeText


def dialect_of(headers: InferHeaders) -> Dialect:
    """A new reader for the answer to this request."""
    match endpoint_of(headers.path).style:
        case Style.CHAT:
            return Completions(WholeChat(), headers.continuation)
        case Style.COMPLETION:
            return Completions(WholeText(), headers.continuation)
        case Style.RESPONSES:
            return Responses()
        case Style.MESSAGES:
            return Messages()
        case Style.PLAIN:
            return Plain(headers.content_type)
