"""What the viewer answers: the page, the table of slides, tiles, outlines. GET only, and only to its user.

Every request must name this machine as its host (else a foreign page could reach the viewer
by a name of its own, DNS rebinding), and carry the token: once in the address, then as a
cookie. Slides are named by keys of a closed table, files by constants.
"""

import base64
import gzip
import hashlib
import io
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import UsageError, WsisegError
from wsiseg.geometry import L0, Box
from wsiseg.place import MAP
from wsiseg.view import results
from wsiseg.view.sources import Sources
from wsiseg.view.tiles import TILE, map_tile, slide_tile

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HOST", "make_app"]

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
JPEG_QUALITY = 90
PAGE = Path(__file__).with_name("page")
SCRIPT, STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
SCRIPTS = ("view", "page", "slide_list", "stage", "map_controls", "map_layer", "outlines", "format")
FILES = {
    **{f"{name}.js": SCRIPT for name in SCRIPTS},
    "openseadragon/openseadragon.min.js": SCRIPT,
    "openseadragon/LICENSE.txt": "text/plain; charset=utf-8",
    "view.css": STYLE,
}
# OpenSeadragon puts this one rule into the page; by its digest it is allowed, and no other is.
OSD_STYLE = b"@media (hover: none) {    .openseadragon-canvas:focus {        outline: none !important;    }}"
POLICY = (
    "default-src 'none'; script-src 'self'; "
    f"style-src 'self' 'sha256-{base64.b64encode(hashlib.sha256(OSD_STYLE).digest()).decode()}'; "
    "img-src 'self' blob: data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # tissue stays out of the browser's disk cache
}
Answer = Callable[[results.Entry, Request], Response]


class _Guard:
    """Lets through what names this machine, is a GET and carries the token; dresses every answer."""

    def __init__(self, app: "ASGIApp", token: str) -> None:
        self._app, self._token = app, token
        self._cookie = f"wsiseg-{hashlib.sha256(token.encode()).hexdigest()[:8]}"  # ports share cookies

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def dressed(message: "Message") -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        app = self._refusal(Request(scope)) or self._app
        await app(scope, receive, dressed)

    def _refusal(self, request: Request) -> Response | None:
        """What to say instead of an answer; on the first visit, the way to the page without the token."""
        if not (len(hosts := request.headers.getlist("host")) == 1 and HOST.fullmatch(hosts[0].lower())):
            return PlainTextResponse("This viewer answers only to 127.0.0.1 and localhost.\n", 403)
        if request.method != "GET":
            return PlainTextResponse("This viewer can only be read.\n", 405, {"Allow": "GET"})
        if self._matches(request.query_params.get("token", "")):
            first = RedirectResponse("/", 303)
            first.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return first
        if self._matches(request.cookies.get(self._cookie, "")):
            return None
        return PlainTextResponse("Open the whole address that wsiseg view printed, token and all.\n", 403)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def make_app(out: Path, token: str, sources: Sources) -> "ASGIApp":
    """The viewer of one output folder, as an ASGI application.

    Raises:
        OutputError: the folder holds no finished slide.
    """
    table = _Table(out)
    slide = "/slides/{key:str}"

    def of(path: str, answer: Answer) -> Route:
        return Route(slide + path, lambda request: answer(table[request.path_params["key"]], request))

    routes = [
        Route("/", lambda _: _file("index.html", "text/html; charset=utf-8")),
        Route("/page/{name:path}", _static),
        Route("/slides", lambda _: JSONResponse(table.listed())),
        of("", lambda entry, _: JSONResponse(results.facts(entry) | {"tile": TILE})),
        of("/source", lambda entry, _: _source(entry, sources)),
        of("/review", lambda entry, _: JSONResponse(results.review_of(entry))),
        of("/outlines", _outlines),
        of("/thumbnail.jpg", lambda entry, _: FileResponse(results.thumbnail_file(entry))),
        of("/tiles/{k:int}/{x:int}_{y:int}.jpg", lambda entry, request: _tile(entry, request, sources)),
        of("/map/{k:int}/{x:int}_{y:int}", _map),
    ]
    app = Starlette(routes=routes, exception_handlers={WsisegError: _sentence})
    return _Guard(app, token)


class _Table:
    """The slides of the folder, read anew whenever the list is asked for."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._entries = results.look(out)

    def __getitem__(self, key: str) -> results.Entry:
        if key not in self._entries:
            msg = "no such slide; load the page again"
            raise UsageError(msg)
        return self._entries[key]

    def listed(self) -> dict[str, Any]:
        """What the page's list shows."""
        self._entries = results.look(self._out)
        return {
            "title": self._out.absolute().name,
            "slides": [results.line(entry) for entry in self._entries.values()],
        }


def _sentence(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, UsageError) else 500)


def _file(name: str, kind: str) -> Response:
    return Response((PAGE / name).read_bytes(), media_type=kind)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        msg = "no such file"
        raise UsageError(msg)
    return _file(name, FILES[name])


def _source(entry: results.Entry, sources: Sources) -> Response:
    results.manifest_of(entry)
    found = sources.source(entry)
    return JSONResponse({"state": found.state, "reason": found.reason})


def _outlines(entry: results.Entry, _: Request) -> Response:
    path, packed = results.outlines_of(entry)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    return FileResponse(path, media_type="application/geo+json", headers=headers)


def _place(request: Request) -> tuple[int, int, int]:
    k, x, y = (int(request.path_params[name]) for name in "kxy")
    return k, x, y


def _tile(entry: results.Entry, request: Request, sources: Sources) -> Response:
    bounds = Box[L0](*results.manifest_of(entry).slide.bounds)
    rgb_YX3 = slide_tile(sources.slide(entry), bounds, *_place(request))
    content = io.BytesIO()
    Image.fromarray(rgb_YX3).save(content, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Response(content.getvalue(), media_type="image/jpeg")


def _map(entry: results.Entry, request: Request) -> Response:
    """Raw bytes, channel after channel: a picture's values would pass through the browser's colours."""
    canvas = ProbabilityMap.open(results.inside(entry.out, entry.folder / MAP))
    content = gzip.compress(map_tile(canvas, *_place(request)).tobytes(), 1, mtime=0)
    return Response(content, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})
