"""One GET of a file's bytes: redirects are followed by hand, and the token never leaves the hub's origin."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from services.downloader.errors import TransferError
from services.downloader.origin import proxy_for, same_origin

_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_REDIRECTS = 5


@asynccontextmanager
async def get_bytes(
    session: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    authorization: str | None,
    on_hop: Callable[[Mapping[str, str]], None],
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer at the end of at most 5 redirects; once another origin was met, no token is sent again.

    `on_hop` hears the headers of every answer of url's own origin that is no error.
    """
    home = here = URL(url)
    for _ in range(_MAX_REDIRECTS + 1):
        sent = headers | ({"Authorization": authorization} if authorization else {})
        async with session.get(here, headers=sent, allow_redirects=False, proxy=proxy_for(here)) as response:
            if response.status < 400 and same_origin(home, here):
                on_hop(response.headers)
            if response.status not in _REDIRECTS:
                yield response
                return
            target = _target(here, response.headers.get("Location", ""))
        if not same_origin(here, target):
            authorization = None
        here = target
    raise TransferError("hub_error", f"The hub redirects more than {_MAX_REDIRECTS} times; try again later.")


def _target(here: URL, location: str) -> URL:
    """Signed addresses are kept to the letter, hence encoded=True."""
    try:
        target = here.join(URL(location, encoded=True))
        if location and target.scheme in {"http", "https"} and target.host:
            return target
    except ValueError:
        pass
    raise TransferError("hub_error", "The hub redirects to something that is not a web address.")
