"""Where parallelism lives: a ``map`` that is passed in.

A mapper takes a function and its items and yields the results in whatever order they come.
Three of them: Python's own ``map`` for tests and debuggers, threads of this process, and
Dask. Each keeps only a few tasks in flight, so memory does not grow with the work, and each
raises the first task's error in the caller.
"""
# ruff: noqa: PLC0415 - dask is loaded only by those who ask for it

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from wsiseg.alone import alone, caught
from wsiseg.errors import UsageError, WsisegError
from wsiseg.interruption import end_at_once, unheard

__all__ = ["Mapper", "existing_cluster", "in_dask", "in_threads", "local_cluster", "serially", "threads_of"]

T = TypeVar("T")
R = TypeVar("R")

PATIENCE_S = 300.0
"""How long to wait, in seconds, while a cluster has no worker at all."""

HANDING_OVER_S = 5.0
"""How long to wait for a finished task's result, in seconds, before looking at the others again."""

TRIES_ALONE = 5
"""How often a task is tried alone whose watching worker dies meanwhile, of another task it may be."""

CONFIG = {
    "distributed.scheduler.worker-saturation": 1.0,  # the task that killed a worker is blamed, not its queue
    "distributed.scheduler.allowed-failures": 1,
    "distributed.deploy.lost-worker-timeout": "60s",  # 15 by default: a busy machine starts no Python in that
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.multiprocessing-method": "spawn",  # open slides do not survive a fork
}


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
    """A mapper of so many threads of this process, however many maps run at once.

    What is in work when a task fails is still done and told of; then comes the error.

    >>> sorted(in_threads(2)(abs, [-2, 1]))
    [1, 2]
    """
    seats = threading.BoundedSemaphore(count)

    def mapper(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        def seated(item: T) -> R:
            with seats:
                return work(item)

        waiting, patient, failed = iter(items), True, None
        pool = ThreadPoolExecutor(count, thread_name_prefix="wsiseg-block")
        running: set[Future[Any]] = set()
        try:
            running = {pool.submit(seated, item) for item in islice(waiting, count)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                failed = failed or next((error for one in finished if (error := one.exception())), None)
                if failed is None:
                    running |= {pool.submit(seated, item) for item in islice(waiting, len(finished))}
                for future in finished:
                    if future.exception() is None:
                        yield future.result()
            if failed is not None:
                raise failed
        except KeyboardInterrupt:
            patient = False
            raise
        finally:
            pool.shutdown(wait=patient, cancel_futures=True)

    return mapper


@dataclass
class _InDask:
    """One map on a cluster: at most one task more than threads in flight on each worker."""

    client: Any
    patience_s: float

    def __post_init__(self) -> None:
        self.done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.running: dict[str, tuple[Any, Any]] = {}
        self.alone: dict[str, int] = {}
        self.seen, self.room = time.monotonic(), 1

    def map(self, work: Callable[[Any], R], items: Iterable[Any]) -> Iterator[R]:
        waiting, looked = iter(items), 0.0
        try:
            while True:
                if time.monotonic() - looked > 1:
                    self._look()
                    looked = time.monotonic()
                for item in islice(waiting, max(0, self.room - len(self.running))):
                    self._submit(caught, work, item)
                if not self.running:
                    return
                try:
                    future = self.done.get(timeout=1)
                except queue.Empty:
                    continue
                yield from self._taken(future, work)
        finally:
            for future, _ in self.running.values():
                future.release()

    def _submit(
        self, call: Callable[..., Any], work: Callable[[Any], Any], item: Any, *, tries: int = 0
    ) -> None:
        try:
            future = self.client.submit(call, work, item, pure=False, retries=0)
        except (OSError, RuntimeError) as error:
            raise _lost() from error
        self.running[future.key] = future, item
        self.alone[future.key] = tries
        future.add_done_callback(self.done.put)

    def _taken(self, future: Any, work: Callable[[Any], R]) -> Iterator[R]:
        from distributed.scheduler import KilledWorker

        _, item = self.running[future.key]
        try:
            result, error = future.result(timeout=HANDING_OVER_S)
        except TimeoutError:  # the worker died before it handed the result over; it is made again elsewhere
            self.done.put(future)
            return
        except KilledWorker as killed:
            tries = self._forget(future)
            if tries == TRIES_ALONE:
                msg = f"{tries} workers that watched over {item} died too; is the machine short of memory?"
                raise WsisegError(msg) from killed
            self._submit(alone, work, item, tries=tries + 1)
            return
        except (CancelledError, OSError) as lost:
            raise _lost() from lost
        self._forget(future)
        if error is not None:
            raise error
        yield result

    def _forget(self, future: Any) -> int:
        """Let a task go; how often it has been tried alone."""
        del self.running[future.key]
        future.release()
        return self.alone.pop(future.key)

    def _look(self) -> None:
        """Count the workers; give up when there is none for too long."""
        threads, now = threads_of(self.client), time.monotonic()
        self.room = sum(threads.values()) + max(1, len(threads))
        if (ours := self.client.cluster) is not None and len(threads) < len(ours.worker_spec):
            ours.scale(len(ours.worker_spec))  # dask gives up a worker that is slow to come back, for good
        if threads:
            self.seen = now
        elif now - self.seen > self.patience_s:
            msg = (
                f"the cluster has had no worker for {self.patience_s:.0f} s: start some, then run this again"
            )
            raise WsisegError(msg)


def threads_of(client: Any) -> dict[str, int]:
    """How many tasks each worker of a cluster takes at a time, by its address.

    Raises:
        WsisegError: the scheduler was lost.
    """
    try:
        return dict(client.nthreads())
    except (OSError, CancelledError, RuntimeError) as error:
        raise _lost() from error


def _lost() -> WsisegError:
    return WsisegError("the Dask scheduler was lost; what is done stays, run the same command again to go on")


def in_dask(client: Any, *, patience_s: float = PATIENCE_S) -> Mapper:
    """A mapper over the workers of a ``distributed.Client``.

    A task whose workers die is tried once more alone in a fresh process, so that no innocent
    one is blamed.

    Raises, while mapping:
        WsisegError: a task's own; a task killed its process even alone; the scheduler was lost;
            there was no worker for ``patience_s`` seconds.
    """

    def mapper(work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        return _InDask(client, patience_s).map(work, items)

    return mapper


@contextmanager
def local_cluster(
    processes: int, *, threads: int = 1, cores: int = 1, gpus: Sequence[str] = ()
) -> Iterator[Any]:
    """A ``distributed.Client`` of so many spawned processes on this machine, gone afterwards.

    Everything listens on the loopback only, and there is no dashboard. Each process gets
    ``cores`` cores for its network, and sees ``gpus`` from its own one onwards.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    common = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}

    def worker(number: int) -> dict[str, Any]:
        first = number % len(gpus) if gpus else 0
        env = {"OMP_NUM_THREADS": str(cores)}
        env |= {"CUDA_VISIBLE_DEVICES": ",".join([*gpus[first:], *gpus[:first]])} if gpus else {}
        more = {"nthreads": threads, "memory_limit": 0, "env": env, "silence_logs": "CRITICAL"}
        return {"cls": Nanny, "options": {**common, **more}}

    workers = {number: worker(number) for number in range(processes)}
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it we say ourselves
    with dask.config.set(CONFIG), ExitStack() as held:
        with unheard():
            scheduler = {"cls": Scheduler, "options": common}
            cluster = held.enter_context(SpecCluster(workers, scheduler, silence_logs="CRITICAL"))
        client = held.enter_context(Client(cluster, set_as_default=False))
        held.enter_context(_heard(client))
        try:
            yield client
        except (KeyboardInterrupt, GeneratorExit):  # dask would wait for the blocks in work
            for nanny in cluster.workers.values():
                nanny.auto_restart = False
            end_at_once(nanny.pid for nanny in cluster.workers.values())
            raise


@contextmanager
def existing_cluster(where: str, *, tls: tuple[str, str, str] | None = None) -> Iterator[Any]:
    """A ``distributed.Client`` of a cluster that runs already, and goes on running.

    Args:
        where: ``tcp://host:port``, ``tls://host:port``, or the scheduler's JSON file.
        tls: the files of the authority's certificate, our certificate, and our key.

    Raises:
        UsageError: nobody answers there, or TLS is set on one side only.
    """
    from distributed import Client, Security

    address = _address(where)
    if address.startswith("tls://") and tls is None:
        msg = f"the scheduler at {where} is behind TLS: give --tls-ca, --tls-cert and --tls-key"
        raise UsageError(msg)
    if tls is not None and not address.startswith("tls://"):
        msg = f"the scheduler at {where} is not behind TLS: start it so, or leave --tls-ca and the others out"
        raise UsageError(msg)
    names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    security = Security(**dict(zip(names, tls, strict=True)), require_encryption=True) if tls else None
    try:
        client = Client(address, security=security, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"no Dask scheduler answers at {where} ({error}): is it running, are the TLS files its own?"
        raise UsageError(msg) from error
    with client, _heard(client):
        yield client


@contextmanager
def _heard(client: Any) -> Iterator[None]:
    """What workers warn of is logged here."""
    client.forward_logging("wsiseg", level=logging.WARNING)
    try:
        yield
    finally:
        # The scheduler may be gone; a worker that has only just started knows of no forwarding (KeyError).
        with suppress(OSError, CancelledError, RuntimeError, ValueError, KeyError):
            client.unforward_logging("wsiseg")


def _address(where: str) -> str:
    """The scheduler's address: what is given, or what its file says."""
    if "://" in where:
        return where
    try:
        return str(json.loads(Path(where).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{where} is neither tcp://host:port nor a scheduler's file: is the scheduler running?"
        raise UsageError(msg) from error
