"""A batch that is told to end: by Ctrl-C, by a queue whose time is up, by a terminal that is closed."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType

__all__ = ["CTRL_C", "Interruption", "end_at_once", "heeded", "leave", "unheard"]

CTRL_C = 128 + signal.SIGINT


class Interruption(KeyboardInterrupt):
    """A signal that ends us as Ctrl-C does; ``exit_code`` is the shell's for it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def heeded() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is done within as Ctrl-C ends it: in order, with its records.

    While it ends so, a second Ctrl-C ends the process at once, and the others are passed over (some
    systems send them twice). One that is ignored already, as nohup has it, stays so. Does nothing
    outside the main thread.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    ours = [number for number, how in before.items() if how in {signal.SIG_DFL, signal.default_int_handler}]

    def end(number: int, _: FrameType | None) -> None:
        for one in ours:
            signal.signal(one, at_once if one == signal.SIGINT else signal.SIG_IGN)
        raise Interruption(number)

    def at_once(_: int, __: FrameType | None) -> None:
        os._exit(CTRL_C)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def unheard() -> Iterator[None]:
    """Let no thread and no process that is started within hear Ctrl-C, which goes to all of a terminal.

    It reaches this thread when the end is come to.
    """
    resource_tracker.ensure_running()  # started with the first process, it would undo the next line
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_once(processes: Iterable[int | None]) -> None:
    """Kill processes of ours that may be in the middle of a block; passes over None and one that is gone."""
    for process in processes:
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def leave(code: int) -> None:
    """End the process where threads are in the middle of a block, which may take minutes."""
    if any(one.name.startswith("wsiseg") for one in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
