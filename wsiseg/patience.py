"""Work that may never end, such as reading from a disk that is gone: waited for so long, and no longer."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["within"]

R = TypeVar("R")

_IDLE: "queue.LifoQueue[queue.SimpleQueue[Callable[[], None]]]" = queue.LifoQueue()
"""The threads of ``within`` that wait for work. They stay: each new thread would tear memory of its own."""


def _serve(tasks: "queue.SimpleQueue[Callable[[], None]]") -> None:
    """Do one task after another."""
    while True:
        tasks.get()()


def within(limit_s: float, work: Callable[[], R], late: str) -> R:
    """The result of ``work``, given up after so many seconds; it is then left behind in its thread.

    Raises:
        TimeoutError: with the message ``late``.
    """
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    try:
        tasks = _IDLE.get_nowait()
    except queue.Empty:
        tasks = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(tasks,), daemon=True, name="wsiseg-read").start()

    def run() -> None:
        said: tuple[Any, BaseException | None]
        try:
            said = work(), None
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            said = None, error
        _IDLE.put(tasks)
        answer.put(said)

    tasks.put(run)
    try:
        result, error = answer.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(late) from None
    if error is not None:
        raise error
    found: R = result
    return found
