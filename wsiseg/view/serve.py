"""Listens on this machine only, and tells the address; ends at Ctrl-C."""

import contextlib
import errno
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from wsiseg.errors import UsageError
from wsiseg.view.app import make_app
from wsiseg.view.sources import Sources

__all__ = ["serve"]

LOOPBACK = "127.0.0.1"
GRACE_S = 2


def serve(out: Path, *, port: int, slides: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Show an output folder until somebody presses Ctrl-C; ``tell`` gets the address with its token.

    Raises:
        OutputError: the folder holds no finished slide.
        UsageError: the port is in use or not ours to use.
    """
    token, sources = secrets.token_urlsafe(32), Sources(out, slides)
    app = make_app(out, token, sources)
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    with _listening(port) as listener, contextlib.closing(sources):
        tell(f"http://{LOOPBACK}:{listener.getsockname()[1]}/?token={token}")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        msg = f"port {port} {why}; choose another with --port, or --port 0 for any that is free"
        raise UsageError(msg) from error
