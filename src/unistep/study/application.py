"""The study's server as an application: a page, its pictures, and four questions that the page asks.

Nothing that it sends names a method: it never opens the key. Pictures have names made by hashing what is in
them, so that a browser may keep them.
"""

import json
import math
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..errors import DataError
from .asking import asked, page_file, session
from .dealing import item_of
from .guard import Guard, Hosts
from .studyfolder import Study, picture_file
from .votes import TOKEN, Refused, Vote, Votes

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/online.js": ("online.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
LONGEST = 10_000
"""Bytes of a request."""


def application(study: Study, folder: Path, votes: Votes, hosts: Hosts) -> ASGIApp:
    """Serves a study and keeps what is voted; `votes` is open for writing."""

    async def about(request: Request) -> Response:
        return JSONResponse(asked(study))

    async def join(request: Request) -> Response:
        return JSONResponse(session(study, votes, votes.join(_text(await _body(request), "name"))))

    async def again(request: Request) -> Response:
        return JSONResponse(session(study, votes, votes.again(_text(await _body(request), "rater"))))

    async def vote(request: Request) -> Response:
        body = await _body(request)
        rater, trial, id = (_text(body, name) for name in ("rater", "trial", "id"))
        choice, seconds = body.get("choice"), body.get("seconds")
        if not (choice is None or isinstance(choice, str)) or not TOKEN.fullmatch(id):
            raise Refused("expected a choice and an id")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            seconds = None
        if item_of(trial) not in study.by_id:
            raise Refused("expected a question of this study, found another")
        shown = votes.shown(rater, trial)
        new = votes.cast(
            Vote(rater, trial, choice, shown, id, None if seconds is None else round(seconds, 2))
        )
        return JSONResponse({"new": new})

    async def picture(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in study.pictures:
            raise HTTPException(404, "no such picture")
        kept = {"Cache-Control": "private, max-age=31536000, immutable"}
        return FileResponse(picture_file(folder, name), media_type="image/png", headers=kept)

    async def page(request: Request) -> Response:
        name, kind = PAGE[request.url.path]
        return Response(page_file(name), media_type=kind)

    routes = [
        *(Route(path, page) for path in PAGE),
        Route("/study", about),
        Route("/join", join, methods=["POST"]),
        Route("/again", again, methods=["POST"]),
        Route("/vote", vote, methods=["POST"]),
        Route("/picture/{name}.png", picture),
    ]
    handlers: dict[Any, Any] = {HTTPException: _told, DataError: _told}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)


async def _body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "expected application/json")
    held = b""
    async for chunk in request.stream():
        held += chunk
        if len(held) > LONGEST:
            raise HTTPException(413, f"expected at most {LONGEST} bytes")
    try:
        found = json.loads(held)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "expected JSON") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "expected a JSON object")
    return found


def _text(body: dict[str, Any], name: str) -> str:
    if not isinstance(body.get(name), str):
        raise HTTPException(400, f"expected a text as {name}")
    return str(body[name])


async def _told(request: Request, error: Exception) -> Response:
    """An error as the page reads it: a full disk is the server's fault, a strange vote the sender's."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    if isinstance(error, Refused):
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"error": "the vote could not be written to the disk"}, 507)
