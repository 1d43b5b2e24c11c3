import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from wsiseg.device import cast_once
from wsiseg.ensemble import BLOCKS_THERE, TorchPredictor
from wsiseg.errors import DeviceError
from wsiseg.model import build_network
from wsiseg.one_launch import OneLaunch, Recorded, Run
from wsiseg.spread import mean_and_spread
from wsiseg.transfer import Transfers

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LikeAGraph:
    """Records as a CUDA graph does: the input's and the answers' memory is fixed, and written anew."""

    def __init__(self, error: RuntimeError | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.error = error

    def __call__(self, run: Run, held: Tensor) -> Recorded:
        self.shapes.append(tuple(held.shape))
        if self.error:
            raise self.error
        answers = tuple(torch.empty_like(answer) for answer in run(held))

        def again() -> None:
            for place, answer in zip(answers, run(held), strict=True):
                place.copy_(answer)

        return again, answers


def work(given: Tensor) -> tuple[Tensor, Tensor]:
    return given * 2, given.sum()


def test_what_is_replayed_answers_as_the_work_itself() -> None:
    record = LikeAGraph()
    launch = OneLaunch(CPU, record)
    for number, count in enumerate((3, 1, 3, 2, 1)):
        given = torch.arange(count * 4.0).reshape(count, 4) + number
        for found, wanted in zip(launch(work, given), work(given), strict=True):
            assert torch.equal(found, wanted)
    assert record.shapes == [(3, 4), (1, 4), (2, 4)]


def test_what_cannot_be_recorded_is_done_all_the_same_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = LikeAGraph(RuntimeError("operation not permitted when stream is capturing\nmore"))
    launch = OneLaunch(CPU, record)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2):
            assert torch.equal(launch(work, torch.ones(count, 4))[0], torch.full((count, 4), 2.0))
    assert len(record.shapes) == 1
    (said,) = caplog.messages
    assert said.endswith(
        "launched one by one, which is slower (operation not permitted when stream is capturing)"
    )


def test_a_first_batch_that_does_not_fit_is_the_callers_to_know_and_a_smaller_one_is_recorded() -> None:
    record = LikeAGraph(torch.OutOfMemoryError())
    launch = OneLaunch(CPU, record)
    with pytest.raises(torch.OutOfMemoryError):
        launch(work, torch.ones(8, 4))
    record.error = None
    for _ in range(2):
        launch(work, torch.ones(4, 4))
    assert record.shapes == [(8, 4), (4, 4)]


def test_where_one_more_shape_does_not_fit_all_are_given_up_and_the_work_is_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = LikeAGraph()
    launch = OneLaunch(CPU, record)
    launch(work, torch.ones(4, 4))
    record.error = RuntimeError("CUDA error: out of memory")
    assert torch.equal(launch(work, torch.ones(3, 4))[0], torch.full((3, 4), 2.0))
    assert torch.equal(launch(work, torch.ones(4, 4))[0], torch.full((4, 4), 2.0))
    assert record.shapes == [(4, 4), (3, 4)]
    assert len(caplog.messages) == 1
    assert not launch._kept


def test_a_recording_that_cannot_be_replayed_is_none() -> None:
    def broken() -> None:
        raise RuntimeError

    launch = OneLaunch(CPU, lambda run, held: (broken, run(held)))
    assert torch.equal(launch(work, torch.ones(2, 4))[0], torch.full((2, 4), 2.0))


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenet_v2", "tu-efficientnet_lite1"])
def test_weights_that_are_cast_once_give_the_bits_of_weights_cast_in_every_pass(encoder: str) -> None:
    torch.manual_seed(0)
    network = build_network(encoder, mean=MEAN, std=STD).eval()
    rgb = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = network(rgb)
        cast_once(network)
        assert torch.equal(network(rgb), before)
    assert next(network.body.parameters()).dtype == torch.bfloat16


def test_a_predictor_that_is_dropped_is_gone_at_once() -> None:
    predictor = TorchPredictor([build_network("mobilenet_v2", mean=MEAN, std=STD)], CPU, batch=1, fp32=True)
    predictor._launch = OneLaunch(CPU, LikeAGraph())
    predictor.stats(np.zeros((1, 64, 64, 3), np.uint8))
    predictor.close()
    gone = weakref.ref(predictor)
    del predictor
    assert gone() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_folds_in_one_launch_give_the_bits_of_folds_one_by_one() -> None:
    torch.manual_seed(0)
    gpu = torch.device("cuda")
    networks = [build_network("mit_b0", mean=MEAN, std=STD) for _ in range(3)]
    predictor = TorchPredictor(networks, gpu, batch=4, fp32=False)
    rgb_BYX3 = np.random.default_rng(0).integers(0, 256, (7, 256, 256, 3), np.uint8)
    recorded = predictor.stats(rgb_BYX3)
    predictor._launch = OneLaunch(gpu, LikeAGraph(RuntimeError("not now")))
    assert np.array_equal(recorded, predictor.stats(rgb_BYX3))


def test_an_ensemble_in_one_launch_sums_up_as_its_folds_do() -> None:
    torch.manual_seed(0)
    networks = [build_network("mobilenet_v2", mean=MEAN, std=STD) for _ in range(3)]
    predictor = TorchPredictor(networks, CPU, batch=1, fp32=True)
    predictor.batch, predictor._launch = 2, OneLaunch(CPU, LikeAGraph())
    rgb_BYX3 = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    prob_FBYX = np.concatenate([predictor(rgb_BYX3[i : i + 1]) for i in range(5)], axis=1)
    stats_CBYX = predictor.stats(rgb_BYX3)
    for number in range(5):
        apart = np.abs(stats_CBYX[:, number].astype(int) - mean_and_spread(prob_FBYX[:, number]))
        assert apart.max() <= 1
    with torch.no_grad():
        next(networks[1].parameters())[0] = float("nan")
    with pytest.raises(DeviceError, match="no numbers"):
        predictor.stats(rgb_BYX3)


class Held:
    """A turn that knows whether it is held."""

    def __init__(self) -> None:
        self.held, self.turns = False, 0

    def __enter__(self) -> None:
        self.held, self.turns = True, self.turns + 1

    def __exit__(self, *_: object) -> None:
        self.held = False


def test_the_device_is_had_while_it_computes_and_not_while_arrays_travel() -> None:
    turn, seen = Held(), []

    class Watched(Transfers):
        def up(self, array: npt.NDArray[Any]) -> Tensor:
            seen.append(("up", turn.held))
            return super().up(array)

        def down(self, tensor: Tensor) -> npt.NDArray[Any]:
            seen.append(("down", turn.held))
            return super().down(tensor)

    def replay(run: Run, held: Tensor) -> Recorded:
        answers = run(held)
        return lambda: seen.append(("computed", turn.held)), answers

    predictor = TorchPredictor([build_network("mobilenet_v2", mean=MEAN, std=STD)], CPU, batch=1, fp32=True)
    predictor._transfers, predictor._launch = Watched(CPU), OneLaunch(CPU, replay)
    predictor.batch = 2
    predictor.stats(np.zeros((2, 64, 64, 3), np.uint8), turn)
    assert set(seen) == {("up", False), ("computed", True), ("down", False)}
    assert turn.turns == 1


def test_an_array_for_which_the_device_has_no_room_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    array, errors = np.arange(6, dtype=np.uint8), iter((torch.OutOfMemoryError(), RuntimeError("broken")))
    transfers = Transfers(CPU)
    transfers._there = object()

    def full(_: Tensor) -> NoReturn:
        raise next(errors)

    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", full)
    assert np.array_equal(transfers.up(array).numpy(), array)
    with pytest.raises(RuntimeError, match="broken"):
        transfers.up(array)


def test_no_more_than_the_next_block_is_on_the_device_before_its_turn() -> None:
    there, most, seen = 0, 0, threading.Condition()

    class Counted(Transfers):
        def up(self, array: npt.NDArray[Any]) -> Tensor:
            nonlocal there, most
            with seen:
                there += 1
                most = max(most, there)
                seen.notify_all()
            return super().up(array)

    class Turn:
        def __enter__(self) -> None:
            lock.acquire()
            with seen:
                seen.wait_for(lambda: there > BLOCKS_THERE, 0.1)

        def __exit__(self, *_: object) -> None:
            nonlocal there
            with seen:
                there -= 1
            lock.release()

    lock = threading.Lock()
    predictor = TorchPredictor([build_network("mobilenet_v2", mean=MEAN, std=STD)], CPU, batch=1, fp32=True)
    predictor._transfers, predictor._launch = Counted(CPU), OneLaunch(CPU, LikeAGraph())
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: predictor.stats(np.zeros((1, 64, 64, 3), np.uint8), Turn()), range(5)))
    assert most == BLOCKS_THERE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_blocks_that_overlap_have_the_bits_of_blocks_one_by_one() -> None:
    torch.manual_seed(0)
    networks = [build_network("mit_b0", mean=MEAN, std=STD) for _ in range(2)]
    predictor = TorchPredictor(networks, torch.device("cuda"), batch=4, fp32=False)
    rgb_NBYX3 = np.random.default_rng(0).integers(0, 256, (24, 4, 256, 256, 3), np.uint8)
    one_by_one = [predictor.stats(rgb_BYX3) for rgb_BYX3 in rgb_NBYX3]
    turn = threading.Lock()
    with ThreadPoolExecutor(6) as pool:
        overlapping = list(pool.map(lambda rgb_BYX3: predictor.stats(rgb_BYX3, turn), rgb_NBYX3))
    assert all(map(np.array_equal, one_by_one, overlapping))
