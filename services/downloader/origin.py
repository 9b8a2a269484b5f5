"""Who a URL belongs to: the token goes to the hub's own origin only, and proxies are the environment's."""

from urllib.request import getproxies, proxy_bypass

from yarl import URL


def same_origin(left: URL, right: URL) -> bool:
    """Whether scheme, host and port are all the same."""
    return _origin(left) == _origin(right)


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme.lower(), (url.host or "").lower(), url.port


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY...) sets for this URL."""
    if url.host is None or proxy_bypass(f"{url.host}:{url.port}") or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")
