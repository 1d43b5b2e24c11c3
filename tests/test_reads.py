"""What two blocks want is read once, by the first, with the same box whatever the blocks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg import reads
from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import SlideReadError
from wsiseg.geometry import L0, Box, Scale
from wsiseg.grid import Grid
from wsiseg.plan import Plan, make_plan
from wsiseg.readers import open_slide
from wsiseg.reads import PatchReader
from wsiseg.testing import ArraySlide

Rgb = npt.NDArray[np.uint8]
SPEC = BundleSpec(
    name="test",
    encoder="mit_b0",
    folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),),
    licence="none",
    trained_on="nothing",
)


def noise(height: int, width: int) -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def plan_of(slide: ArraySlide, core: int, margin: int, per_block: int) -> Plan:
    grid = Grid(slide.info.width, slide.info.height, core + 2 * margin, margin, per_block)
    return Plan(slide.info, SPEC, Scale(1.0), grid)


@given(st.integers(4, 30), st.integers(0, 12), st.integers(1, 3), st.data())
def test_patches_have_the_slides_pixels_and_the_blocks_change_no_box(
    core: int, margin: int, per_block: int, data: st.DataObject
) -> None:
    slide = ArraySlide(noise(50, 61))
    plan = plan_of(slide, core, margin, per_block)
    reader = PatchReader(slide, plan)
    boxes: set[Box[L0]] = set()
    for block in plan.grid:
        wanted = data.draw(st.lists(st.sampled_from(block.patches), min_size=1, unique=True))
        slide.reads.clear()
        rgb_BYX3, _ = reader.read(wanted)
        boxes |= set(slide.reads)
        for rgb_YX3, patch in zip(rgb_BYX3, wanted, strict=True):
            side = plan.grid.patch
            assert np.array_equal(rgb_YX3, slide.read(plan.scale.to_l0(patch.read), (side, side)))
    single = PatchReader(slide, plan_of(slide, core, margin, 1))
    slide.reads.clear()
    for block in plan_of(slide, core, margin, 1).grid:
        single.read(list(block.patches))
    assert boxes <= set(slide.reads)


def test_pieces_are_given_up_to_keep_to_a_bound_and_after_the_last_block_had_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide = ArraySlide(noise(300, 400))
    plan = plan_of(slide, 32, 8, 2)
    reader, count = PatchReader(slide, plan), 0
    for block in plan.grid:
        reader.read(list(block.patches))
        count = max(count, len(reader._kept))
    assert count > 20
    assert reader._kept == {}
    assert reader._kept_bytes == 0
    monkeypatch.setattr(reads, "KEPT_BYTES", 5000)
    for block in plan.grid:
        reader.read(list(block.patches))
        assert reader._kept_bytes == sum(3 * box.area for box in reader._kept) <= 5000


class Slow(ArraySlide):
    """A slide that gives nothing until two are waiting, and then an error or pixels."""

    def __init__(self, rgb_YX3: Rgb, *, torn: bool) -> None:
        super().__init__(rgb_YX3)
        self.torn = torn
        self.ready = threading.Event()

    def read(self, box: Box[L0], size: tuple[int, int]) -> Rgb:
        assert self.ready.wait(10)
        if self.torn:
            msg = "torn"
            raise SlideReadError(msg)
        return super().read(box, size)


def test_threads_that_want_the_same_piece_read_it_once() -> None:
    slide = Slow(noise(64, 64), torn=False)
    plan = plan_of(slide, 32, 8, 1)
    reader = PatchReader(slide, plan)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(reader.read, list(block.patches)) for block in plan.grid]
        slide.ready.set()
    assert all(one.exception() is None for one in found)
    assert len(slide.reads) == len(set(slide.reads)) == 25


def test_a_piece_that_cannot_be_read_fails_all_who_want_it_and_is_tried_again() -> None:
    slide = Slow(noise(64, 64), torn=True)
    plan = plan_of(slide, 32, 8, 1)
    reader = PatchReader(slide, plan)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(reader.read, list(block.patches)) for block in plan.grid]
        slide.ready.set()
    assert all(isinstance(one.exception(), SlideReadError) for one in found)
    slide.torn = False
    for block in plan.grid:
        reader.read(list(block.patches))
    assert len(slide.reads) == 25


@pytest.mark.parametrize("on_lattice", [False, True])
@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.9])
def test_pieces_of_a_real_slide_are_bit_by_bit_parts_of_the_whole(
    shared: Path, mpp: float, on_lattice: bool
) -> None:
    path = shared / "slides/derived/aperio-3level-jpeg.svs"
    with open_slide(path, mpp=mpp) as slide:
        if on_lattice:
            slide.for_patches()
        plan = make_plan(slide.info, SPEC)
        for block in plan.grid:
            whole_YX3 = slide.read(plan.scale.to_l0(block.read), (block.read.h, block.read.w))
            rgb_BYX3, _ = PatchReader(slide, plan).read(list(block.patches))
            for rgb_YX3, patch in zip(rgb_BYX3, block.patches, strict=True):
                assert np.array_equal(rgb_YX3, whole_YX3[patch.read.within(block.read)])
