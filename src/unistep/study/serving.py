"""A study is served until Ctrl-C."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import uvicorn

from ..errors import ConfigError
from .application import application
from .guard import LOOPBACK, Hosts
from .studyfolder import check_pictures, read_study
from .votes import Votes


def serve(
    folder: Path, host: str, port: int, names: Collection[str] = (), tell: Callable[[str], None] = print
) -> Votes:
    """Serves the study in `folder` at host:port (0: a free one) until Ctrl-C; gives its votes.

    names: other names that this server goes by, such as that of a proxy before it. tell: is told the address,
    and lines of the votes' file that are damaged. Raises DataError for what is no study, ConfigError for an
    address that cannot be had.
    """
    study = read_study(folder)
    check_pictures(folder, study)
    with Votes(folder, study) as votes, listening(host, port) as open_socket:
        if votes.damaged:
            lines = ", ".join(map(str, votes.damaged))
            tell(f"{votes.path}: damaged lines, kept but not counted: {lines}")
        if votes.counted:
            tell(f"goes on from {len(votes.counted)} votes of {len(votes.raters)} raters")
        tell(f"{address(open_socket)}  (Ctrl-C ends; votes are in {votes.path})")
        config = uvicorn.Config(
            application(study, folder, votes, known(host, names)),
            log_level="error", access_log=False, server_header=False, proxy_headers=False, ws="none",
            lifespan="off", timeout_graceful_shutdown=3,
        )  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            uvicorn.Server(config).run(sockets=[open_socket])
    return votes


def listening(host: str, port: int) -> socket.socket:
    """A socket at host:port. Raises ConfigError for one that cannot be had."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"expected --port from 0 to 65535, found {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"expected {host}:{port} to be free for the server, found: {error.strerror or error}; give "
            "another --port (0: a free one) or --host"
        ) from error


def known(host: str, names: Collection[str]) -> Hosts:
    """What the server at `host` may be called: itself, `names`, and any address where it hears all."""
    own = {name.lower() for name in (host, *names)}
    if _is(host, "is_loopback"):
        return Hosts(own | set(LOOPBACK))
    if _is(host, "is_unspecified"):
        return Hosts(own | set(LOOPBACK) | {socket.gethostname().lower()}, addresses=True)
    return Hosts(own)


def address(opened: socket.socket) -> str:
    """Where a person finds it."""
    host, port = opened.getsockname()[:2]
    if _is(host, "is_unspecified"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), what))
    except ValueError:
        return host.lower() == "localhost" and what == "is_loopback"
