import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.grid import Grid


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    core, margin = draw(st.integers(1, 12)), draw(st.integers(0, 5))
    return Grid(
        width=draw(st.integers(1, 60)),
        height=draw(st.integers(1, 60)),
        patch=core + 2 * margin,
        margin=margin,
        per_block=draw(st.integers(1, 4)),
    )


@given(grids())
def test_patch_cores_and_block_cores_each_cover_every_pixel_once(grid: Grid) -> None:
    by_patch = np.zeros((grid.height, grid.width), int)
    by_block = np.zeros_like(by_patch)
    for block in grid:
        by_block[block.core.within(grid.extent)] += 1
        for patch in block.patches:
            by_patch[patch.core.within(grid.extent)] += 1
            assert block.core.contains(patch.core)
    assert (by_patch == 1).all()
    assert (by_block == 1).all()


@given(grids())
def test_a_block_is_exactly_one_chunk_and_its_read_holds_its_patches(grid: Grid) -> None:
    for block in grid:
        row, column = block.index
        assert (block.core.y // grid.chunk, block.core.x // grid.chunk) == (row, column)
        assert (block.core.bottom - 1) // grid.chunk == row
        assert (block.core.right - 1) // grid.chunk == column
        for patch in block.patches:
            assert block.read.contains(patch.read)
            assert (patch.read.w, patch.read.h) == (grid.patch, grid.patch)
            assert patch.read.contains(patch.core)


@given(grids())
def test_the_grid_counts_what_it_yields(grid: Grid) -> None:
    blocks = list(grid)
    assert len(blocks) == len(grid)
    assert sum(len(block.patches) for block in blocks) == grid.patches
    assert blocks == [grid.block(*block.index) for block in blocks]


@given(grids(), st.integers(1, 4))
def test_block_size_does_not_move_a_patch(grid: Grid, per_block: int) -> None:
    other = Grid(grid.width, grid.height, grid.patch, grid.margin, per_block)
    assert {p for b in grid for p in b.patches} == {p for b in other for p in b.patches}
