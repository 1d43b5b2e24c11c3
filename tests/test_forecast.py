"""What a device was seen to do is remembered by its name, and a forecast is made of nothing else."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import SlideReadError
from wsiseg.forecast import (
    READ_S,
    REST_OF_FOLD_S,
    REST_S,
    Device,
    blocks_in_flight,
    network_rate,
    read_rate,
    seconds_of,
)
from wsiseg.geometry import L0, Box
from wsiseg.machine import cores
from wsiseg.options import MapOptions
from wsiseg.pipeline import Predict
from wsiseg.plan import Plan, make_plan
from wsiseg.testing import ArraySlide, array_info

Rgb = npt.NDArray[np.uint8]
SPEC = BundleSpec(
    name="x",
    encoder="mit_b0",
    folds=tuple(FoldFile(file=f"fold-{n}.safetensors", sha256=f"{n:064}") for n in range(5)),
    licence="none",
    trained_on="nothing",
)
CPU, GPU = Device("this processor", on_gpu=False, cores=4), Device("that card", on_gpu=True, cores=4)
OPTIONS = MapOptions(device="cpu", batch=8, threads=3)


def plan_of(folds: int = 1, **changes: object) -> Plan:
    spec = SPEC.model_copy(update={"folds": SPEC.folds[:folds], **changes})
    return make_plan(array_info(20_000, 20_000), spec)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wsiseg" / "rates.json"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], None]:
    """Let a device be the one that options mean."""

    def use(device: Device) -> None:
        monkeypatch.setattr(Device, "of", classmethod(lambda *_: device))

    use(CPU)
    return use


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Patches that a network was given; each takes it 2 s of the clock, and 8 of four cores."""
    calls: list[int] = []
    monkeypatch.setattr("wsiseg.forecast.time.perf_counter", lambda: 2.0 * sum(calls))
    monkeypatch.setattr("wsiseg.forecast.time.process_time", lambda: 8.0 * sum(calls))
    yield calls
    monkeypatch.undo()


def loading(calls: list[int]) -> Callable[[], Predict]:
    def predict(rgb_BYX3: Rgb) -> npt.NDArray[np.float32]:
        calls.append(len(rgb_BYX3))
        return np.zeros((1, *rgb_BYX3.shape[:3]), np.float32)

    return lambda: predict


def never() -> Predict:
    pytest.fail("the network was loaded")


def test_a_gpu_is_timed_by_the_clock_in_full_batches_and_a_cpu_by_all_its_cores(
    on: Callable[[Device], None], seen: list[int]
) -> None:
    assert network_rate(plan_of(), OPTIONS, loading(seen)) == 8.0
    assert seen == [1, CPU.cores]
    seen.clear()
    on(GPU)
    assert network_rate(plan_of(), OPTIONS, loading(seen)) == 2.0
    assert seen == [4, 4]
    seen.clear()
    network_rate(plan_of(), replace(OPTIONS, batch=3), loading(seen))
    assert seen == [3, 3]


def test_a_rate_is_measured_once_for_a_device_a_network_and_a_precision(
    on: Callable[[Device], None], seen: list[int], cache: Path
) -> None:
    first = network_rate(plan_of(), OPTIONS, loading(seen))
    assert network_rate(plan_of(folds=5), OPTIONS, never) == first
    on(replace(CPU, name="another"))
    network_rate(plan_of(), OPTIONS, loading(seen))
    on(replace(CPU, cores=2))
    network_rate(plan_of(), OPTIONS, loading(seen))
    on(CPU)
    network_rate(plan_of(encoder="mit_b1"), OPTIONS, loading(seen))
    network_rate(plan_of(input_px=512), OPTIONS, loading(seen))
    network_rate(plan_of(), replace(OPTIONS, fp32=True), loading(seen))
    assert len(json.loads(cache.read_text())) == 6
    for folder in (cache.parent, cache.parent.parent):
        assert [path.name for path in folder.iterdir() if "partial" in path.name] == []


@pytest.mark.usefixtures("on")
def test_what_a_busy_machine_took_is_said_to_be_rough_and_not_kept(
    seen: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsiseg.forecast.time.perf_counter", lambda: 3.0 * sum(seen))
    assert network_rate(plan_of(), OPTIONS, loading(seen)) == 8.0
    assert "the forecast is rough" in caplog.text
    assert not cache.exists()
    monkeypatch.setattr("wsiseg.forecast.time.perf_counter", lambda: 2.5 * sum(seen))
    network_rate(plan_of(), OPTIONS, loading(seen))
    assert cache.exists()


@pytest.mark.parametrize("content", ["", "no json", "[1]", '{"a": "b"}', '{"a": null}', "\xff"])
@pytest.mark.usefixtures("on")
def test_a_damaged_cache_is_written_anew(seen: list[int], cache: Path, content: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content.encode("latin-1"))
    network_rate(plan_of(), OPTIONS, loading(seen))
    assert network_rate(plan_of(), OPTIONS, never) == 8.0


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("value", ["NaN", "Infinity", "0", "-1"])
def test_a_rate_that_makes_no_sense_is_measured_again(seen: list[int], cache: Path, value: str) -> None:
    network_rate(plan_of(), OPTIONS, loading(seen))
    cache.write_text(cache.read_text().replace("8.0", value))
    assert network_rate(plan_of(), OPTIONS, loading(seen)) == 8.0


@pytest.mark.usefixtures("on")
def test_a_cache_that_cannot_be_written_is_no_error(
    seen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert network_rate(plan_of(), OPTIONS, loading(seen)) == 8.0


def test_on_a_cpu_work_is_shared_by_the_cores_and_on_a_gpu_the_slower_side_counts(
    on: Callable[[Device], None],
) -> None:
    plan, five = plan_of(), plan_of(folds=5)
    canvas_mpx = 100 * 768**2 / 1e6
    fold = canvas_mpx * REST_OF_FOLD_S / 3  # three threads
    beside = canvas_mpx * (0.01 * 1.05 * plan.scale.factor**2 + REST_S) / 3 + fold
    assert seconds_of(100, plan, OPTIONS, network_s=2.0, read_s=None) == pytest.approx(100 * 2 / 4)
    assert seconds_of(100, plan, OPTIONS, network_s=2.0, read_s=0.01) == pytest.approx(50 + beside)
    slower = 250 + beside + 4 * fold
    assert seconds_of(100, five, OPTIONS, network_s=2.0, read_s=0.01) == pytest.approx(slower)
    assert seconds_of(0, plan, OPTIONS, network_s=2.0, read_s=0.01) == 0
    on(GPU)
    assert seconds_of(100, plan, OPTIONS, network_s=2.0, read_s=0.01) == 200
    assert seconds_of(100, plan, OPTIONS, network_s=1e-6, read_s=0.01) == pytest.approx(beside)


class Watched(ArraySlide):
    """A slide of three levels that keeps how finely it was read."""

    torn = False

    def read(self, box: Box[L0], size: tuple[int, int]) -> Rgb:
        if self.torn:
            msg = "torn"
            raise SlideReadError(msg)
        self.step = box.w / size[1]
        return np.zeros((*size, 3), np.uint8)


def test_reading_is_timed_on_a_coarse_level_and_never_on_the_finest() -> None:
    slide = Watched(np.zeros((8, 8, 3), np.uint8))
    slide.info = replace(array_info(20_000, 20_000), downsamples=(1.0, 4.0, 16.0))
    plan = make_plan(slide.info, SPEC)
    assert read_rate(slide, plan) > 0
    assert 4 <= slide.step < 8
    slide.torn = True
    assert read_rate(slide, plan) == READ_S
    slide.info = array_info(20_000, 20_000)
    assert read_rate(slide, plan) == READ_S


def test_a_device_is_told_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number, name in enumerate(("Alpha", "Beta")):
        card = tmp_path / f"0000:0{number}:00.0"
        card.mkdir()
        (card / "information").write_text(f"Model: \t\t NVIDIA {name}\nIRQ:   1\n")
    monkeypatch.setattr("wsiseg.machine.DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Device.of(MapOptions()).name == Device.of(MapOptions(device="cuda")).name == "NVIDIA Alpha"
    assert Device.of(MapOptions(device="cuda:1")).name == "NVIDIA Beta"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Device.of(MapOptions()) == Device("NVIDIA Beta", on_gpu=True, cores=cores())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Device.of(MapOptions()).on_gpu == (sys.platform == "darwin")
    assert not Device.of(MapOptions(device="cpu")).on_gpu
    assert Device.of(MapOptions(device="cpu")).name


@pytest.mark.parametrize(
    ("device", "processes", "count"),
    [(CPU, 1, 3), (CPU, 4, 3), (GPU, 1, 4), (GPU, 4, 3), (replace(GPU, cores=64), 1, 8), (GPU, 2, 3)],
)
def test_a_gpu_is_fed_by_as_many_cores_as_its_process_has(
    device: Device, processes: int, count: int, on: Callable[[Device], None]
) -> None:
    on(device)
    assert blocks_in_flight(MapOptions(), processes) == count
    assert blocks_in_flight(replace(OPTIONS, threads=5), processes) == 5


@pytest.mark.parametrize(
    ("torch", "on_gpu"), [("2.14.1+cpu", False), ("2.14.1+cu130", True), ("2.14.1", True)]
)
def test_a_card_counts_only_for_a_torch_that_knows_it(
    torch: str, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.forecast.visible_gpus", lambda: ["0"])
    monkeypatch.setattr("wsiseg.forecast.version", lambda _: torch)
    monkeypatch.setattr(sys, "platform", "linux")
    assert Device.of(MapOptions()).on_gpu is on_gpu
