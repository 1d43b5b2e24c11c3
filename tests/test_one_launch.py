import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from wsiseg.errors import DeviceError
from wsiseg.model import TorchPredictor, build_network
from wsiseg.one_launch import OneLaunch, Recorded, Run
from wsiseg.spread import mean_and_spread

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
    launch = OneLaunch(work, CPU, record)
    for number, count in enumerate((3, 1, 3, 2, 1)):
        given = torch.arange(count * 4.0).reshape(count, 4) + number
        for found, wanted in zip(launch(given), work(given), strict=True):
            assert torch.equal(found, wanted)
    assert record.shapes == [(3, 4), (1, 4), (2, 4)]


def test_what_cannot_be_recorded_is_done_all_the_same_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = LikeAGraph(RuntimeError("operation not permitted when stream is capturing\nmore"))
    launch = OneLaunch(work, CPU, record)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2):
            assert torch.equal(launch(torch.ones(count, 4))[0], torch.full((count, 4), 2.0))
    assert len(record.shapes) == 1
    (said,) = caplog.messages
    assert said.endswith(
        "launched one by one, which is slower (operation not permitted when stream is capturing)"
    )


def test_memory_that_is_too_small_is_the_callers_to_know_and_drops_what_was_recorded() -> None:
    record = LikeAGraph()
    launch = OneLaunch(work, CPU, record)
    launch(torch.ones(1, 4))
    record.error = torch.OutOfMemoryError()
    with pytest.raises(torch.OutOfMemoryError):
        launch(torch.ones(8, 4))
    record.error = None
    launch(torch.ones(1, 4))
    assert record.shapes == [(1, 4), (8, 4), (1, 4)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_folds_in_one_launch_give_the_bits_of_folds_one_by_one() -> None:
    torch.manual_seed(0)
    gpu = torch.device("cuda")
    networks = [build_network("mit_b0", mean=MEAN, std=STD) for _ in range(3)]
    predictor = TorchPredictor(networks, gpu, batch=4, fp32=False)
    rgb_BYX3 = np.random.default_rng(0).integers(0, 256, (7, 256, 256, 3), np.uint8)
    recorded = predictor.stats(rgb_BYX3)
    predictor._launch = OneLaunch(predictor._all_folds, gpu, LikeAGraph(RuntimeError("not now")))
    assert np.array_equal(recorded, predictor.stats(rgb_BYX3))


def test_an_ensemble_in_one_launch_sums_up_as_its_folds_do() -> None:
    torch.manual_seed(0)
    networks = [build_network("mobilenet_v2", mean=MEAN, std=STD) for _ in range(3)]
    predictor = TorchPredictor(networks, CPU, batch=1, fp32=True)
    predictor.batch, predictor._launch = 2, OneLaunch(predictor._all_folds, CPU, LikeAGraph())
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
