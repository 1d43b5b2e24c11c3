"""Where parallelism lives: a ``map`` that is passed in.

A mapper takes a function and its items and yields the results in whatever order they come.
Three of them: Python's own ``map`` for tests and debuggers, threads of this process, and
Dask. Each keeps only a few tasks in flight, so memory does not grow with the work, and each
raises the first task's error in the caller.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol, TypeVar

__all__ = ["Mapper", "in_threads", "serially"]

T = TypeVar("T")
R = TypeVar("R")


class Mapper(Protocol):
    """A parallel ``map`` that yields in order of completion."""

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """Apply ``work`` to every item; raise what it raised."""


def serially(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
    """One after the other, in this thread: the mapper of debuggers.

    >>> list(serially(abs, [-2, 1]))
    [2, 1]
    """
    return map(work, items)


def in_threads(count: int) -> Mapper:
    """A mapper of so many threads of this process; two items each are taken ahead.

    >>> sorted(in_threads(2)(abs, [-2, 1]))
    [1, 2]
    """

    def mapper(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        queue = iter(items)
        with ThreadPoolExecutor(count, thread_name_prefix="wsiseg-block") as pool:
            running: set[Future[Any]] = {pool.submit(work, item) for item in islice(queue, count)}
            try:
                while running:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    running |= {pool.submit(work, item) for item in islice(queue, len(finished))}
                    for future in finished:
                        yield future.result()
            finally:
                for future in running:
                    future.cancel()

    return mapper
