"""A process that answers questions under limits of time and memory, and is replaced when it dies.

Damaged slides abort C libraries, ask them for all memory, or hold them for ever: whatever a
library does to the process, here it is an answer. One process answers many questions, one
after the other, so that none of them pays for the start of a Python.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Self

from wsiseg.alone import how_ended
from wsiseg.errors import UsageError, WsisegError
from wsiseg.patience import within

__all__ = ["DiedError", "Limits", "Watched", "serve"]

SECONDS, GIB = "WSISEG_PREFLIGHT_SECONDS", "WSISEG_PREFLIGHT_GIB"
START_S = 120.0
"""How long a process may take to start: a cold disk, a busy machine."""
GRACE_S = 2.0
"""How much later than the process itself we notice that it is late."""

Answer = dict[str, Any]


class DiedError(Exception):
    """The process gave no answer; says how it ended. Never leaves ``readers``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one question may cost: seconds of wall time, and bytes of memory (the process's own included)."""

    seconds: float = 25.0
    memory: int = 2 * 2**30

    @classmethod
    def chosen(cls) -> Self:
        """The usual ones, or those of ``WSISEG_PREFLIGHT_SECONDS`` and ``WSISEG_PREFLIGHT_GIB``.

        Raises:
            UsageError: a variable holds no number above 0.
        """
        usual = cls()
        seconds, gib = _number(SECONDS, usual.seconds), _number(GIB, usual.memory / 2**30)
        return cls(seconds, round(gib * 2**30))


def _number(name: str, usual: float) -> float:
    said = os.environ.get(name)
    try:
        value = usual if said is None else float(said)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        msg = f"{name} is {said!r}: give a number above 0, or unset it"
        raise UsageError(msg)
    return value


class Watched:
    """A spawned process that runs ``serve``; started at the first question, and again after a death.

    Args:
        main: what the process imports and calls, ``"module:function"``; it calls ``serve``.
        limits: of each question.
    """

    def __init__(self, main: str, limits: Limits) -> None:
        self.limits = limits
        self._main = main
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def ask(self, question: dict[str, Any]) -> Answer:
        """The answer to a question (JSON values both); several threads take turns.

        Raises:
            DiedError: it ended, or had to be ended; the next question goes to a fresh process.
            WsisegError: no process can be started.
        """
        with self._lock:
            child = self._child or self._start()
            assert self._said is not None
            self._said.seek(0)  # for the child too: they share the place in the file
            self._said.truncate()
            line = json.dumps(question).encode() + b"\n"
            try:
                return self._exchange(child, line, self.limits.seconds + GRACE_S)
            except DiedError:
                self._stop()
                raise

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        module, _, function = self._main.partition(":")
        code = f"import sys; sys.path[:] = sys.argv[3:]; from {module} import {function}; {function}()"
        limits = [str(self.limits.seconds), str(self.limits.memory)]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each would reserve memory
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what it prints; closed in _stop
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", code, *limits, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C is for us; it ends when its stdin does
            )
            self._exchange(self._child, b"", START_S)
        except (OSError, DiedError) as error:
            self._stop()
            msg = f"no process could be started to look at slides ({error}); is memory short?"
            raise WsisegError(msg) from error
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], line: bytes, limit_s: float) -> Answer:
        assert child.stdin is not None
        assert child.stdout is not None
        late = f"no answer within {limit_s - GRACE_S:g} s"
        try:
            child.stdin.write(line)
            child.stdin.flush()
            answer = within(limit_s, child.stdout.readline, late)
        except TimeoutError as error:
            raise DiedError(late) from error
        except OSError:
            answer = b""
        if answer.endswith(b"\n"):
            found: Answer = json.loads(answer)
            return found
        try:
            code = child.wait(GRACE_S)
        except subprocess.TimeoutExpired as error:
            raise DiedError(late) from error
        raise DiedError(late if code == -signal.SIGALRM else f"{how_ended(code)}{self._last_words()}")

    def _last_words(self) -> str:
        assert self._said is not None
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read(1 << 16).decode(errors="replace").splitlines()]
        said = [line for line in lines if line]
        return f": {said[-1][:300]}" if said else ""

    def _stop(self) -> None:
        child, self._child = self._child, None
        if self._said is not None:
            self._said.close()
        if child is None:
            return
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # held by a dead disk
            child.wait(GRACE_S)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def serve(answered: Callable[[dict[str, Any]], Answer]) -> None:
    """The process's side: a question a line on stdin, its answer a line on stdout, until stdin ends.

    Limits come from the command line. Our own errors are the answer ``{"refused": sentence, "kind": class}``,
    want of memory ``{"memory": sentence}``, others ``{"defect": traceback}``.
    """
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not fall into the answers
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    for limit, value in ((kind, memory), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # a lower limit is already set
            resource.setrlimit(limit, (value, value))
    os.write(out, b"{}\n")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # ends the process, even in the midst of C
        answer = _answer(answered, json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(out, json.dumps(answer).encode() + b"\n")


def _answer(answered: Callable[[dict[str, Any]], Answer], question: dict[str, Any]) -> Answer:
    try:
        return answered(question)
    except MemoryError as error:
        return {"memory": str(error)}
    except WsisegError as error:
        how = "memory" if _short_of_memory(error) else "refused"
        return {how: str(error), "kind": type(error).__name__}
    except Exception:  # noqa: BLE001 - a defect of ours is told where it can be seen
        return {"defect": traceback.format_exc()}


def _short_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False
