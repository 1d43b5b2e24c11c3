"""Threads and Dask are a map; what a worker's death costs is only its own block."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import distributed
import psutil  # type: ignore[import-untyped]
import pytest

from wsiseg.errors import SlideReadError, UsageError, WsisegError
from wsiseg.patience import within
from wsiseg.workers import (
    Mapper,
    _heard,
    existing_cluster,
    in_dask,
    in_threads,
    local_cluster,
    threads_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with local_cluster(2, threads=1) as found:
        yield found


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let workers have the function itself: they cannot import this file."""
    cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    return function


@by_value
def doubled(number: int) -> int:
    return 2 * number


@by_value
def refused(number: int) -> int:
    if number == 7:
        msg = "number 7 cannot be decoded"
        raise SlideReadError(msg)
    return number


def test_dask_gives_what_map_gives_whatever_the_order(client: Any) -> None:
    assert sorted(in_dask(client)(doubled, range(50))) == [2 * n for n in range(50)]


def test_dask_raises_our_own_errors_as_they_are(client: Any) -> None:
    with pytest.raises(SlideReadError, match="number 7 cannot be decoded"):
        list(in_dask(client)(refused, range(20)))


def test_only_a_few_tasks_are_taken_ahead(client: Any) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield number

    for done, _ in enumerate(in_dask(client)(doubled, items()), 1):
        assert len(taken) <= done + 2 * (1 + 1)


@by_value
def deadly_once(folder: Path, number: int) -> int:
    mark = folder / str(number)
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_costs_no_result(client: Any, tmp_path: Path) -> None:
    assert sorted(in_dask(client)(partial(deadly_once, tmp_path), range(30))) == list(range(30))


def test_a_worker_that_dask_has_given_up_is_started_anew(tmp_path: Path) -> None:
    impatient = {"distributed.deploy.lost-worker-timeout": "1ms"}
    with local_cluster(1) as client, dask.config.set(impatient):
        mapper = in_dask(client, patience_s=60)
        assert sorted(mapper(partial(deadly_once, tmp_path), range(5))) == list(range(5))


@pytest.mark.parametrize("error", [KeyError("forward-logging-wsiseg"), OSError(), CancelledError()])
def test_workers_that_no_longer_listen_at_the_end_spoil_no_batch(error: BaseException) -> None:
    class Gone:
        def forward_logging(self, *_: object, **__: object) -> None: ...

        def unforward_logging(self, _: str) -> None:
            raise error

    with _heard(Gone()):
        pass


def test_a_scheduler_that_is_lost_is_a_sentence_to_who_asks_for_its_workers() -> None:
    class Gone:
        def nthreads(self) -> dict[str, int]:
            raise OSError

    with pytest.raises(WsisegError, match="scheduler was lost"):
        threads_of(Gone())


def test_a_result_that_is_late_is_waited_for(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    late, handed_over = [TimeoutError, TimeoutError], distributed.Future.result

    def result(future: Any, timeout: float) -> Any:
        if late:
            raise late.pop()
        return handed_over(future, timeout)

    monkeypatch.setattr(distributed.Future, "result", result)
    assert sorted(in_dask(client)(doubled, range(5))) == [2 * n for n in range(5)]
    assert late == []


def test_a_task_that_kills_even_a_process_of_its_own_is_named_and_no_other(client: Any) -> None:
    with pytest.raises(WsisegError, match=r"^5 ends every process that works on it, .+exit code 5"):
        list(in_dask(client)(os._exit, [5]))
    assert sorted(in_dask(client)(abs, range(5))) == list(range(5))


def test_everything_listens_on_the_loopback_only(client: Any) -> None:
    del client
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c for one in ours for c in one.net_connections("inet") if c.status == "LISTEN"]
    assert listening
    assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}


def test_a_cluster_without_workers_is_given_up() -> None:
    with local_cluster(0) as nobody, pytest.raises(WsisegError, match="no worker for 1 s"):
        list(in_dask(nobody, patience_s=1)(doubled, [1]))


def test_nobody_at_the_address_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match="no Dask scheduler answers"), existing_cluster(where):
            pass
    with pytest.raises(UsageError, match="neither tcp"), existing_cluster(str(tmp_path / "none.json")):
        pass
    with pytest.raises(UsageError, match="is not behind TLS"), existing_cluster(where, tls=("a", "b", "c")):
        pass


@pytest.mark.parametrize("mapper", [in_threads(3), in_threads(1)])
def test_threads_raise_the_first_error_and_leave_no_thread(mapper: Mapper) -> None:
    with pytest.raises(SlideReadError):
        list(mapper(refused, range(100)))
    assert [t for t in threading.enumerate() if t.name.startswith("wsiseg-block")] == []


def test_what_is_in_work_when_a_task_fails_is_told_of_and_nothing_more_is_begun() -> None:
    together, begun = threading.Barrier(4), []

    def work(number: int) -> int:
        begun.append(number)
        together.wait(10)
        if number == 1:
            raise OSError
        time.sleep(0.1)
        return number

    results = in_threads(4)(work, range(100))
    assert sorted(next(results) for _ in range(3)) == [0, 2, 3]
    with pytest.raises(OSError):  # noqa: PT011 - it has no words
        next(results)
    assert sorted(begun) == [0, 1, 2, 3]


def test_threads_are_shared_by_all_maps_of_one_mapper() -> None:
    mapper, busy, most = in_threads(2), [0], [0]
    lock = threading.Lock()

    def work(_: int) -> None:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.005)
        with lock:
            busy[0] -= 1

    maps = [threading.Thread(target=lambda: list(mapper(work, range(20)))) for _ in range(3)]
    for one in maps:
        one.start()
    for one in maps:
        one.join()
    assert most == [2]


def test_work_that_hangs_is_left_behind() -> None:
    with pytest.raises(TimeoutError, match="too late"):
        within(0.05, threading.Event().wait, "too late")
    assert within(5, lambda: 3, "too late") == 3
    with pytest.raises(KeyError):
        within(5, partial(os.environ.__getitem__, "NO SUCH NAME"), "too late")


def test_every_worker_has_its_own_gpu_first_and_sees_the_others() -> None:
    with local_cluster(3, gpus=["2", "5"]) as client:
        found = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(found.values()) == ["2,5", "2,5", "5,2"]


def test_workers_are_spawned_and_never_forked(client: Any) -> None:
    workers = set(client.run(os.getpid).values())
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in workers]
    assert lines
    assert all("spawn_main" in line for line in lines)


def test_no_worker_hears_ctrl_c_which_is_the_leading_process_business_and_that_one_still_does(
    client: Any, tmp_path: Path
) -> None:
    list(in_dask(client)(partial(deadly_once, tmp_path), range(5)))
    client.wait_for_workers(2, timeout=60)  # one of them was started anew
    deaf = client.run(lambda: signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    assert list(deaf.values()) == [True, True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
