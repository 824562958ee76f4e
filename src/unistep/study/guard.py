"""What every answer of the study's server is held to: who may ask, and what the page may do.

A page elsewhere that a rater has open can neither read this server nor vote on it: its address must be one
of ours (against DNS rebinding: a foreign name that was turned to this machine is refused; a bare IP address
is no name), and what changes something must come from a page of our own (Origin). The page itself may load
nothing from elsewhere.
"""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Robots-Tag": "noindex",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Hosts:
    """Names that this server goes by; `addresses`: also any bare IP address, where it listens on all."""

    names: Collection[str]
    addresses: bool = False

    def has(self, host: str) -> bool:
        """Whether a Host header, NAME or NAME:PORT, is of this server."""
        name = hostname(host)
        return name is not None and (name in self.names or (self.addresses and is_address(name)))


def hostname(host: str) -> str | None:
    """The name in NAME:PORT; None for what is no host."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and "@" not in host else None
    except ValueError:
        return None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Around a whole application, so that its own errors have the headers too."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # nothing here speaks anything else

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        why = self._refused(Headers(scope=scope), scope["method"])
        app = self.app if why is None else JSONResponse({"error": why}, 403)
        await app(scope, receive, guarded)

    def _refused(self, headers: Headers, method: str) -> str | None:
        host = headers.get("host", "")
        if not self.hosts.has(host):
            return "expected an address of this server, found another name: it takes more by --name"
        if method in ("GET", "HEAD"):
            return None
        origin = urlsplit(headers.get("origin", ""))
        if origin.scheme not in ("http", "https") or origin.netloc != host:
            return "expected a request of this server's own page, found one from elsewhere"
        return None
