"""How a canvas is cut: patches that overlap to be read, cores that do not to be written.

A patch reads ``patch`` × ``patch`` canvas pixels and writes only its core, ``margin`` pixels
in from each side: a network sees less around a patch's rim, so that rim is read and never
written. Cores tile the canvas without gap or overlap, hence every pixel has one author.
``per_block`` × ``per_block`` cores make a block, which is one zarr chunk and one task.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from wsiseg.geometry import Box, Canvas

__all__ = ["Block", "Grid", "Patch"]


@dataclass(frozen=True, slots=True)
class Patch:
    """One input of the network: what it reads and what of it is kept, in canvas pixels."""

    read: Box[Canvas]
    core: Box[Canvas]


@dataclass(frozen=True, slots=True)
class Block:
    """A square of patches: one read, one task, one chunk.

    ``index`` is its ``(row, column)`` among the chunks; ``read`` covers its patches' read
    boxes (it may reach outside the canvas); ``core`` is what it writes.
    """

    index: tuple[int, int]
    read: Box[Canvas]
    core: Box[Canvas]
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """The cutting of a canvas of ``width`` × ``height`` pixels; iterates its blocks by row.

    >>> grid = Grid(width=3000, height=1000, patch=1024, margin=128, per_block=2)
    >>> grid.core, grid.chunk, grid.shape, len(grid)
    (768, 1536, (1, 2), 2)
    >>> sum(patch.core.area for block in grid for patch in block.patches) == 3000 * 1000
    True
    """

    width: int
    height: int
    patch: int
    margin: int
    per_block: int

    def __post_init__(self) -> None:
        assert min(self.width, self.height, self.per_block) > 0, f"nothing to cut in {self}"
        assert 0 <= 2 * self.margin < self.patch, f"margin {self.margin} leaves no core"

    @property
    def core(self) -> int:
        """The side of a patch's core, in canvas pixels."""
        return self.patch - 2 * self.margin

    @property
    def chunk(self) -> int:
        """The side of a block's core, in canvas pixels: the side of a zarr chunk."""
        return self.core * self.per_block

    @property
    def extent(self) -> Box[Canvas]:
        """The whole canvas."""
        return Box(0, 0, self.width, self.height)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of block rows and columns."""
        return -(-self.height // self.chunk), -(-self.width // self.chunk)

    @property
    def patches(self) -> int:
        """The number of patches of the whole canvas."""
        return -(-self.height // self.core) * -(-self.width // self.core)

    def __len__(self) -> int:
        """The number of blocks."""
        rows, columns = self.shape
        return rows * columns

    def __iter__(self) -> Iterator[Block]:
        """Yield every block, row by row."""
        rows, columns = self.shape
        return (self.block(row, column) for row in range(rows) for column in range(columns))

    def block(self, row: int, column: int) -> Block:
        """The block at one place among the chunks."""
        core = Box[Canvas](column * self.chunk, row * self.chunk, self.chunk, self.chunk) & self.extent
        assert core, f"no block {row, column} in {self.shape}"
        patches = tuple(
            self._patch(x, y)
            for y in range(core.y, core.bottom, self.core)
            for x in range(core.x, core.right, self.core)
        )
        last = patches[-1].read
        x, y = core.x - self.margin, core.y - self.margin
        return Block((row, column), Box(x, y, last.right - x, last.bottom - y), core, patches)

    def _patch(self, x: int, y: int) -> Patch:
        core = Box[Canvas](x, y, self.core, self.core)
        return Patch(core.grown(self.margin), core & self.extent)
