"""The oracle: the map made block by block equals the network run on the whole canvas at once."""

import math
import pickle
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import DeviceError, SlideReadError
from wsiseg.fold_stats import fold_stats
from wsiseg.geometry import L0, Box, Scale
from wsiseg.grid import Grid
from wsiseg.ledger import Ledger
from wsiseg.pipeline import BlockResult, BlockTask, Predict, Work, plan_work, segment
from wsiseg.plan import Plan
from wsiseg.polygons import join, outline
from wsiseg.spread import mean_and_spread
from wsiseg.testing import ArraySlide, BlurPredictor, array_info
from wsiseg.tissue import TissueMask
from wsiseg.workers import Mapper, in_threads, serially

Rgb = npt.NDArray[np.uint8]
THRESHOLD = 100
SPEC = BundleSpec(
    name="test",
    encoder="mit_b0",
    folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),),
    licence="none",
    trained_on="nothing",
)


@dataclass(frozen=True, eq=False)
class Given:
    """A recipe that hands out what it was given."""

    value: object

    def __call__(self) -> object:
        return self.value


def make_plan(slide: ArraySlide, *, core: int, margin: int, per_block: int) -> Plan:
    grid = Grid(slide.info.width, slide.info.height, core + 2 * margin, margin, per_block)
    return Plan(slide.info, SPEC, Scale(1.0), grid)


def run(
    folder: Path,
    slide: ArraySlide,
    predictor: Predict,
    plan: Plan,
    *,
    mapper: Mapper = serially,
    tissue: TissueMask | None = None,
) -> tuple[ProbabilityMap, list[BlockResult]]:
    if (folder / "map.zarr").exists():
        canvas = ProbabilityMap(folder / "map.zarr", plan.grid)
    else:
        canvas = ProbabilityMap.create(folder / "map.zarr", plan.grid, scale=plan.scale, mpp=0.5, about={})
    task = BlockTask(plan, canvas, Given(slide), Given(predictor), THRESHOLD)  # type: ignore[arg-type]
    with Ledger(folder / "ledger.jsonl", plan.settings) as ledger:
        work = list(plan_work(plan, tissue, ledger))
        return canvas, list(segment(task, work, mapper=mapper, ledger=ledger))


def at_once(slide: ArraySlide, predictor: Predict, margin: int) -> Rgb:
    """The oracle: one forward pass over the whole canvas, white around it."""
    around = slide.info.extent.grown(margin)
    rgb_YX3 = slide.read(around, (around.h, around.w))
    stats_CYX = mean_and_spread(predictor(rgb_YX3[None])[:, 0])
    whole_CYX: Rgb = np.asarray(stats_CYX[:, *slide.info.extent.within(around)])
    return whole_CYX


def noise(seed: int, height: int, width: int) -> Rgb:
    """Blobs and noise: something to outline."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (-(-height // 7), -(-width // 7), 1), np.uint8).repeat(7, 0).repeat(7, 1)
    fine = rng.integers(0, 90, (height, width, 3), np.uint8)
    return np.asarray(coarse[:height, :width] * np.uint8(160) + fine, np.uint8)


cuts = st.fixed_dictionaries(
    {"core": st.integers(5, 40), "margin": st.integers(0, 9), "per_block": st.integers(1, 3)}
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 99), st.integers(1, 90), st.integers(1, 90), cuts, st.integers(1, 3))
def test_the_map_equals_the_network_run_on_the_whole_canvas_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    height: int,
    width: int,
    cut: dict[str, int],
    threads: int,
) -> None:
    slide, predictor = ArraySlide(noise(seed, height, width)), BlurPredictor(cut["margin"], (1.0, 0.4, 0.7))
    plan = make_plan(slide, **cut)
    canvas, results = run(tmp_path_factory.mktemp("run"), slide, predictor, plan, mapper=in_threads(threads))
    expected = at_once(slide, predictor, cut["margin"])
    assert np.array_equal(canvas.read(plan.grid.extent), expected)
    whole = outline(*expected, threshold_u8=THRESHOLD, x=0, y=0)
    joined = join((result.regions for result in results), plan.grid.chunk)
    assert pickle.dumps(joined) == pickle.dumps(join([whole], 10**9))


def test_a_predictor_that_sees_beyond_the_margin_shows_in_the_comparison(tmp_path: Path) -> None:
    slide, predictor = ArraySlide(noise(1, 90, 90)), BlurPredictor(9)
    plan = make_plan(slide, core=20, margin=2, per_block=2)
    canvas, _ = run(tmp_path, slide, predictor, plan)
    assert not np.array_equal(canvas.read(plan.grid.extent), at_once(slide, predictor, 9))


def test_a_constant_network_gives_a_constant_map_seams_included(tmp_path: Path) -> None:
    def constant(rgb_BYX3: Rgb) -> npt.NDArray[np.float32]:
        return np.full((2, *rgb_BYX3.shape[:3]), 0.7, np.float32)

    slide = ArraySlide(noise(2, 77, 101))
    plan = make_plan(slide, core=13, margin=4, per_block=2)
    canvas, results = run(tmp_path, slide, constant, plan)
    mean_YX, spread_YX = canvas.read(plan.grid.extent)
    assert (mean_YX == round(0.7 * 255)).all()
    assert (spread_YX == 0).all()
    (polygon,) = join((result.regions for result in results), plan.grid.chunk).polygons_N
    assert polygon.area == 77 * 101
    assert len(polygon.exterior.coords) == 5


def test_every_canvas_pixel_is_read_exactly_once(tmp_path: Path) -> None:
    slide = ArraySlide(noise(3, 80, 120))
    plan = make_plan(slide, core=16, margin=3, per_block=2)
    run(tmp_path, slide, BlurPredictor(3), plan, mapper=in_threads(3))
    times_YX = np.zeros((80 + 2 * 3, 128 + 2 * 3), np.int_)  # the last patches reach beyond the canvas
    for box in slide.reads:
        times_YX[box.y + 3 : box.bottom + 3, box.x + 3 : box.right + 3] += 1
    assert (times_YX == 1).all()


def left_half(slide: ArraySlide) -> TissueMask:
    mask_YX = np.zeros((slide.info.height, slide.info.width), np.bool_)
    mask_YX[:, : slide.info.width // 2] = True
    return TissueMask(mask_YX, Scale(1.0), mpp=1000.0)


@pytest.mark.parametrize("per_block", [1, 2, 3, 5])
def test_patches_without_tissue_are_neither_read_nor_run_whatever_the_block(
    tmp_path: Path, per_block: int
) -> None:
    slide, predictor = ArraySlide(noise(4, 64, 160)), BlurPredictor(2)
    plan = make_plan(slide, core=16, margin=2, per_block=per_block)
    canvas, _ = run(tmp_path, slide, predictor, plan, tissue=left_half(slide))
    assert sum(predictor.calls) == 4 * 5
    assert max(box.right for box in slide.reads) <= 80 + 2
    expected = at_once(slide, predictor, 2)
    expected[:, :, 80:] = 0
    assert np.array_equal(canvas.read(plan.grid.extent), expected)


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    class PowerCutError(Exception):
        pass

    def failing_after(count: int) -> Predict:
        calls: list[int] = []

        def predict(rgb_BYX3: Rgb) -> npt.NDArray[np.float32]:
            if len(calls) == count:
                raise PowerCutError
            calls.append(1)
            return BlurPredictor(3)(rgb_BYX3)

        return predict

    slide = ArraySlide(noise(5, 80, 120))
    plan = make_plan(slide, core=16, margin=3, per_block=2)
    whole, results = run(tmp_path, slide, BlurPredictor(3), plan)
    for count in range(len(results)):
        folder = tmp_path / str(count)
        folder.mkdir()
        with pytest.raises(PowerCutError):
            run(folder, slide, failing_after(count), plan)
        predictor = BlurPredictor(3)
        canvas, again = run(folder, slide, predictor, plan)
        assert len(predictor.calls) == len(results) - count
        assert sum(result.resumed for result in again) == count
        assert np.array_equal(canvas.read(plan.grid.extent), whole.read(plan.grid.extent))
        chunk = plan.grid.chunk
        assert pickle.dumps(join((r.regions for r in again), chunk)) == pickle.dumps(
            join((r.regions for r in results), chunk)
        )


def test_a_damaged_chunk_is_done_again(tmp_path: Path) -> None:
    slide = ArraySlide(noise(6, 80, 120))
    plan = make_plan(slide, core=16, margin=3, per_block=2)
    canvas, _ = run(tmp_path, slide, BlurPredictor(3), plan)
    before = canvas.read(plan.grid.extent)
    chunk = canvas.path / "0" / "c" / "0" / "1" / "1"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    predictor = BlurPredictor(3)
    _, results = run(tmp_path, slide, predictor, plan)
    assert [(r.done.row, r.done.column) for r in results if not r.resumed] == [(1, 1)]
    assert np.array_equal(canvas.read(plan.grid.extent), before)


def test_an_unreadable_block_ends_the_slide_with_its_reason(tmp_path: Path) -> None:
    class Torn(ArraySlide):
        def read(self, box: Box[L0], size: tuple[int, int]) -> Rgb:
            if box.x > 20:
                msg = "array.tif cannot be decoded there"
                raise SlideReadError(msg)
            return super().read(box, size)

    slide = Torn(noise(7, 40, 90))
    plan = make_plan(slide, core=16, margin=3, per_block=1)
    with pytest.raises(SlideReadError, match="cannot be decoded"):
        run(tmp_path, slide, BlurPredictor(3), plan, mapper=in_threads(2))


@pytest.mark.parametrize("folds", [1, 2, 5, 7, 32, 33])
def test_the_mean_is_rounded_half_up_in_whole_numbers_at_every_step(folds: int) -> None:
    steps = np.arange(1, 256) * 2 * 257 * folds - 257 * folds  # of 2 × the sum, where the mean goes up by one
    total_N = np.unique([steps // 2 + shift for shift in (-1, 0, 1)]).clip(0, folds * 65535)
    fine_FN = total_N // folds + (np.arange(folds)[:, None] < total_N % folds)
    prob_FYX = (fine_FN / 65535).astype(np.float32)[:, None]
    expected = (2 * 255 * total_N + folds * 65535) // (2 * folds * 65535)
    assert np.array_equal(mean_and_spread(prob_FYX)[0, 0], expected)


@settings(max_examples=60)
@given(st.integers(1, 7), st.integers(0, 10**6))
def test_mean_and_spread_are_numpys_and_no_order_of_folds_moves_them(folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prob_FYX = rng.random((folds, 67, 5), np.float32) ** rng.choice([0.1, 1, 30])
    stats = mean_and_spread(prob_FYX)
    assert np.abs(stats[1] - prob_FYX.astype(np.float64).std(axis=0) * 255).max() <= 0.51
    for at in np.ndindex(prob_FYX.shape[1:]):
        fine = [round(float(prob * np.float32(65535))) for prob in prob_FYX[:, *at]]
        assert stats[0][at] == math.floor(Fraction(255 * sum(fine), folds * 65535) + Fraction(1, 2))
    assert np.array_equal(mean_and_spread(rng.permutation(prob_FYX)), stats)


def test_a_network_that_gives_no_numbers_fails_and_is_not_taken_for_no_tumour(tmp_path: Path) -> None:
    def predict(rgb_BYX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        prob_FBYX = np.zeros((2, *rgb_BYX3.shape[:3]), np.float32)
        prob_FBYX[1, -1, 3, 4] = np.nan
        return prob_FBYX

    slide = ArraySlide(noise(7, 40, 90))
    with pytest.raises(DeviceError, match="no numbers"):
        run(tmp_path, slide, predict, make_plan(slide, core=16, margin=3, per_block=2))


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(0, 10**6))
def test_a_device_sums_folds_up_to_the_same_bits(folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prob_FBYX = rng.random((folds, 2, 9, 8), np.float32) ** rng.choice([0.01, 1, 30])
    stats_CBYX = fold_stats(torch.from_numpy(prob_FBYX))[0].numpy()
    for number in range(2):
        assert np.array_equal(stats_CBYX[:, number], mean_and_spread(prob_FBYX[:, number]))


def test_a_predictor_that_sums_up_gives_the_same_map(tmp_path: Path) -> None:
    class SummingUp(BlurPredictor):
        sums_up = True

        def stats(
            self, rgb_BYX3: npt.NDArray[np.uint8], turn: AbstractContextManager[object]
        ) -> npt.NDArray[np.uint8]:
            with turn:
                return fold_stats(torch.from_numpy(self(rgb_BYX3)))[0].numpy()

    slide, maps = ArraySlide(noise(7, 40, 90)), []
    plan = make_plan(slide, core=16, margin=3, per_block=2)
    for name, predictor in (("one", BlurPredictor(3)), ("other", SummingUp(3))):
        (tmp_path / name).mkdir()
        canvas, _ = run(tmp_path / name, slide, predictor, plan)
        maps.append(canvas.read(Box(0, 0, 90, 40)))
    assert maps[0][0].any()
    assert np.array_equal(maps[0], maps[1])


class Device(BlurPredictor):
    """Sums up as a GPU does, and sees whether a block goes there while another has its turn."""

    sums_up = True

    def __init__(self) -> None:
        super().__init__(3)
        self.computing, self.met, self.at_once = 0, threading.Event(), 0

    def stats(
        self, rgb_BYX3: npt.NDArray[np.uint8], turn: AbstractContextManager[object]
    ) -> npt.NDArray[np.uint8]:
        if self.computing:  # this is the way there
            self.met.set()
        with turn:
            self.computing += 1
            self.at_once = max(self.at_once, self.computing)
            self.met.wait(5)
            self.computing -= 1
        return fold_stats(torch.from_numpy(self(rgb_BYX3)))[0].numpy()


def test_a_block_goes_to_the_device_while_another_has_its_turn(tmp_path: Path) -> None:
    slide, device = ArraySlide(noise(7, 40, 90)), Device()
    plan = make_plan(slide, core=16, margin=3, per_block=2)
    _, results = run(tmp_path, slide, device, plan, mapper=in_threads(2))
    assert device.met.is_set()
    assert device.at_once == 1
    assert all({"network", "device idle"} <= set(result.seconds) for result in results)


def test_settings_that_change_a_pixel_change_the_key() -> None:
    slide = array_info(100, 100)
    plan = Plan(slide, SPEC, Scale(1.0), Grid(100, 100, 20, 2, 2))
    others = [
        replace(plan, slide=replace(slide, fingerprint="other")),
        replace(plan, slide=replace(slide, reader="tiffslide 3")),
        replace(plan, scale=Scale(2.0)),
        replace(plan, grid=replace(plan.grid, margin=3)),
        replace(plan, numerics="cuda bfloat16"),
        replace(plan, tissue="none"),
        replace(plan, sparing=True),
        replace(plan, spec=SPEC.model_copy(update={"temperature": 2.0})),
        replace(plan, spec=SPEC.model_copy(update={"resample": "bicubic"})),
        replace(
            plan, spec=SPEC.model_copy(update={"folds": (FoldFile(file="a.safetensors", sha256="1" * 64),)})
        ),
    ]
    assert len({p.key for p in (plan, *others)}) == 1 + len(others)


def test_work_names_only_patches_of_its_block(tmp_path: Path) -> None:
    slide = ArraySlide(noise(8, 40, 40))
    plan = make_plan(slide, core=16, margin=0, per_block=2)
    with Ledger(tmp_path / "ledger.jsonl", plan.settings) as ledger:
        work = list(plan_work(plan, None, ledger))
    assert work[0] == Work(0, 0, (0, 1, 2, 3))
    assert sum(len(item.patches) for item in work) == plan.grid.patches


def test_the_device_is_idle_while_the_next_block_is_read_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("wsiseg.pipeline.time.perf_counter", lambda: clock[0])

    class Slow(ArraySlide):
        def read(self, box: Box[L0], size: tuple[int, int]) -> Rgb:
            clock[0] += 3
            return super().read(box, size)

    def network(rgb_BYX3: Rgb) -> npt.NDArray[np.float32]:
        clock[0] += 2
        return np.zeros((1, *rgb_BYX3.shape[:3]), np.float32)

    slide = Slow(noise(0, 40, 60))
    for folder in ("one", "another"):  # nothing of one slide counts for the next
        plan = make_plan(slide, core=20, margin=3, per_block=1)
        plan = replace(plan, tissue=folder)
        (tmp_path / folder).mkdir()
        _, results = run(tmp_path / folder, slide, network, plan)
        seconds = [result.seconds for result in results]
        assert len(seconds) == 6
        assert sum(one["network"] for one in seconds) == 2 * 6
        assert [one["device idle"] for one in seconds] == [0, *(one["read"] for one in seconds[1:])]
        assert all(one["read"] > 0 for one in seconds[1:])
