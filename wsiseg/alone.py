"""A task alone in a fresh process: how to learn whether it was this one that killed a worker."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import cloudpickle

from wsiseg.errors import WsisegError

__all__ = ["alone", "caught", "how_ended"]

T = TypeVar("T")
R = TypeVar("R")


def caught(work: Callable[[T], R], item: T) -> tuple[R | None, WsisegError | None]:
    """Our own errors as values: Dask neither repeats nor rewraps them."""
    try:
        return work(item), None
    except WsisegError as error:
        return None, error


def alone(work: Callable[[T], R], item: T) -> tuple[R | None, WsisegError | None]:
    """The same in a fresh process with nobody else in it, for a task whose worker died."""
    code = "import sys; sys.path[:] = sys.argv[1:]; from wsiseg.alone import _answer; _answer()"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code, *sys.path],
        input=cloudpickle.dumps((work, item)),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode == 0:
        found: tuple[R | None, WsisegError | None] = pickle.loads(done.stdout)  # noqa: S301 - our own child
        return found
    msg = (
        f"{item} ends every process that works on it, even alone ({how_ended(done.returncode)}): is memory "
        "short (--block 1, fewer --threads), or is the slide damaged there?"
    )
    return None, WsisegError(msg)


def how_ended(code: int) -> str:
    """How a process ended, in words.

    >>> how_ended(-6), how_ended(3)
    ('signal SIGABRT', 'exit code 3')
    """
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _answer() -> None:
    """The child of ``alone``: a pickled call on stdin, its pickled result on stdout."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not fall into the answer
    work, item = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    with os.fdopen(out, "wb") as answer:
        answer.write(cloudpickle.dumps(caught(work, item)))
