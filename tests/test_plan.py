import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import PlanError, ResolutionError
from wsiseg.geometry import L0, Box
from wsiseg.plan import make_plan
from wsiseg.testing import array_info

SPEC = BundleSpec(
    name="x",
    encoder="mit_b0",
    folds=(FoldFile(file="fold-1.safetensors", sha256="a" * 64),),
    licence="none",
    trained_on="nothing",
)


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.floats(0.2, 1.2))
def test_the_canvas_covers_the_slide_at_the_bundles_resolution(width: int, height: int, mpp: float) -> None:
    plan = make_plan(array_info(width, height, mpp=mpp), SPEC)
    assert abs(plan.mpp / SPEC.canvas_mpp - 1) <= 0.5 / 128 / (SPEC.canvas_mpp / mpp) + 1e-9
    assert plan.scale.to_l0(plan.grid.extent).contains(Box(0, 0, width, height))
    assert (plan.grid.width - 1) * plan.scale.factor < width


@given(st.floats(0.2, 1.2))
def test_every_block_reads_whole_level_0_pixels(mpp: float) -> None:
    plan = make_plan(array_info(9000, 7000, mpp=mpp), SPEC)
    for block in plan.grid:
        box = plan.scale.to_l0(block.read)
        assert box.w == block.read.w * plan.scale.factor
        assert box.h == block.read.h * plan.scale.factor


def test_only_the_bounds_are_planned() -> None:
    bounds: Box[L0] = Box(1000, 2000, 3000, 1500)
    plan = make_plan(array_info(100_000, 90_000, bounds=bounds), SPEC)
    assert (plan.scale.x, plan.scale.y) == (1000, 2000)
    assert plan.scale.to_l0(plan.grid.extent).contains(bounds)
    assert plan.grid.width < 2100
    with pytest.raises(PlanError, match="no pixels inside its bounds"):
        make_plan(array_info(100, 100, bounds=Box(5, 5, 0, 10)), SPEC)


def test_a_coarse_slide_is_warned_of_and_a_far_too_coarse_one_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        make_plan(array_info(1000, 1000, mpp=1.0), SPEC)
        assert not caplog.text
        make_plan(array_info(1000, 1000, mpp=1.2), SPEC)
    assert "enlarged 1.6 times" in caplog.text
    with pytest.raises(ResolutionError, match="too coarse for x"):
        make_plan(array_info(1000, 1000, mpp=3.0), SPEC)


def test_memory_does_not_grow_with_the_slide_and_disk_does() -> None:
    small, large = (make_plan(array_info(side, side), SPEC, tissue="none") for side in (5_000, 200_000))
    assert small.peak_bytes(3) == large.peak_bytes(3)
    looked_at = make_plan(array_info(100_000, 100_000, mpp=0.25), SPEC)
    assert looked_at.peak_bytes(3) - small.peak_bytes(3) < 2**30, "only the thumbnail grows, 32 px to one"
    huge = make_plan(array_info(1_000_000, 1_000_000, mpp=0.25), SPEC)
    assert huge.peak_bytes(3) - small.peak_bytes(3) <= 800 * 2**20, "and it not without end"
    assert small.disk_bytes(10) < large.disk_bytes(1000)
