"""The walk of one block: read, predict, keep the cores, write, outline.

Everything else of wsiseg prepares for this module or tidies up after it. A block is one
task: it reads its pixels once, writes one chunk of the map, and returns only a hash and
outlines. It may run twice, anywhere, and leaves the same bytes.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import DeviceError, SlideReadError
from wsiseg.geometry import Box, Canvas
from wsiseg.grid import Block, Patch
from wsiseg.kept import Kept, Recipe
from wsiseg.ledger import Done, Ledger
from wsiseg.machine import hand_back_memory
from wsiseg.patience import within
from wsiseg.plan import Plan
from wsiseg.polygons import Regions, outline
from wsiseg.reads import PatchReaderRecipe
from wsiseg.slide import Slide
from wsiseg.spread import NO_NUMBERS, mean_and_spread
from wsiseg.tissue import TissueMask
from wsiseg.workers import Mapper

__all__ = [
    "BlockResult",
    "BlockTask",
    "Predict",
    "Work",
    "numerics_of",
    "plan_work",
    "predicted",
    "segment",
    "timed",
]

BLOCKS_A_TRIM = 16
"""After so many blocks a process hands freed memory back; else that grows with the slide."""

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""RGB patches (B, Y, X, 3) to each fold's probabilities (F, B, Y, X)."""


@dataclass(frozen=True, slots=True)
class Work:
    """One block to be done: which of its patches hold tissue, and what the ledger says of it."""

    row: int
    column: int
    patches: tuple[int, ...]
    done: Done | None = None

    def __str__(self) -> str:
        return f"block ({self.row}, {self.column})"


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block leaves behind besides its chunk.

    ``seconds`` holds the wall time of each stage, and as ``device idle`` how long the device
    waited for this block; ``resumed`` says that the chunk was already there and intact.
    """

    done: Done
    regions: Regions
    seconds: dict[str, float]
    resumed: bool


def plan_work(plan: Plan, tissue: TissueMask | None, ledger: Ledger) -> Iterator[Work]:
    """The blocks that hold tissue, in the grid's order, each with its patches that do.

    A patch is run if its core touches tissue: the rule looks at patches, never at blocks, so
    that the size of a block decides nothing. Without a mask every patch is run.
    """
    for block in plan.grid:
        wanted = tuple(
            number
            for number, patch in enumerate(block.patches)
            if tissue is None or tissue.covers(plan.scale.to_l0(patch.core))
        )
        if wanted:
            yield Work(*block.index, wanted, ledger.done.get(block.index))


SLIDES = Kept(limit=2)
PREDICTORS = Kept(limit=1)


class _Device:
    """This process's device: it predicts for one block at a time, and stands idle in between.

    A GPU is idle, too, for as long as its turn's thread waits for Python's lock before it launches anything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[str, float] = ("", 0.0)

    @contextmanager
    def turn(self, key: str, seconds: dict[str, float]) -> Iterator[None]:
        """Have the device; ``seconds`` is told how long, and how long it stood idle before, with this key."""
        with self._lock:
            last, free_since = self._last
            seconds["device idle"] = time.perf_counter() - free_since if last == key else 0.0
            try:
                with timed(seconds, "network"):
                    yield
            finally:
                self._last = key, time.perf_counter()


_DEVICE = _Device()


@dataclass(frozen=True, slots=True)
class BlockTask:
    """The task of every block of one slide; picklable, for it holds recipes and no handle."""

    plan: Plan
    map: ProbabilityMap
    slide: Recipe[Slide]
    predictor: Recipe[Predict]
    threshold_u8: int
    read_timeout_s: float = 600.0
    sure_u8: int = 0

    def __call__(self, work: Work) -> BlockResult:
        """Do one block, or take it from its chunk where that is intact.

        Raises:
            SlideReadError: its pixels cannot be decoded, or not in time.
            DeviceError: this process computes otherwise than the plan says.
            OutputError: its chunk cannot be written.
        """
        block = self.plan.grid.block(work.row, work.column)
        seconds: dict[str, float] = {}
        if work.done is not None and self.map.holds(block, work.done.sha256, work.done.unreadable):
            done, resumed, map_CYX = work.done, True, self.map.read(block.core)
        else:
            map_CYX, lost = self._predict(block, work.patches, seconds)
            with timed(seconds, "write"):
                sha256 = self.map.write(block, map_CYX)
                if self.plan.sparing:
                    self.map.write_unreadable(block, lost)
            lost_px = tuple((box.x, box.y, box.w, box.h) for box in lost)
            done, resumed = Done(work.row, work.column, sha256, len(work.patches), lost_px), False
        with timed(seconds, "outline"):
            least, sure, corner = self.threshold_u8, self.sure_u8, block.core
            regions = outline(*map_CYX, threshold_u8=least, sure_u8=sure, x=corner.x, y=corner.y)
        hand_back_memory(every=BLOCKS_A_TRIM)
        return BlockResult(done, regions, seconds, resumed)

    def _predict(
        self, block: Block, wanted: tuple[int, ...], seconds: dict[str, float]
    ) -> tuple[npt.NDArray[np.uint8], list[Box[Canvas]]]:
        """The block's map, and the places in it of which nothing is known: the map is 0 there."""
        patches = [block.patches[number] for number in wanted]
        with timed(seconds, "read"):
            rgb_BYX3, unread = self._read(patches)
        with PREDICTORS.use(self.predictor) as predict:
            _same_numerics(predict, self.plan)
            stats_of = predicted(predict, rgb_BYX3, _DEVICE.turn(self.plan.key, seconds))
        map_CYX = np.zeros((2, block.core.h, block.core.w), np.uint8)
        for number, patch in enumerate(patches):  # one by one: the sums take five times the memory
            rows, columns = patch.core.within(block.core)
            map_CYX[:, rows, columns] = stats_of(number, patch.core.within(patch.read))
        lost = [part for patch in patches for box in unread if (part := box & patch.core)]
        for box in lost:
            map_CYX[:, *box.within(block.core)] = 0
        return map_CYX, lost

    def _read(self, patches: list[Patch]) -> tuple[npt.NDArray[np.uint8], list[Box[Canvas]]]:
        def read() -> tuple[npt.NDArray[np.uint8], list[Box[Canvas]]]:
            with SLIDES.use(PatchReaderRecipe(self.slide, self.plan)) as reader:
                return reader.read(patches)

        late = f"{self.plan.slide.name} gave no pixels for {self.read_timeout_s:g} s: is its disk there?"
        try:
            return within(self.read_timeout_s, read, late)
        except TimeoutError as error:
            raise SlideReadError(late) from error


def predicted(
    predict: Predict, rgb_BYX3: npt.NDArray[np.uint8], turn: AbstractContextManager[object]
) -> Callable[[int, tuple[slice, slice]], npt.NDArray[np.uint8]]:
    """Run the network; return what gives the mean and spread (2, Y, X) of a part of a patch, by its number.

    The device is had for ``turn`` while it computes. A predictor that ``sums_up`` its folds where it is, far
    from the memory, has it no longer than that.

    Raises:
        DeviceError: the network gives no numbers.
    """
    if getattr(predict, "sums_up", False):
        stats_CBYX = predict.stats(rgb_BYX3, turn)  # type: ignore[attr-defined]
        return lambda number, part: stats_CBYX[:, number, *part]
    with turn:
        prob_FBYX = predict(rgb_BYX3)
    if np.isnan(prob_FBYX.min(initial=1)):
        raise DeviceError(NO_NUMBERS)
    return lambda number, part: mean_and_spread(prob_FBYX[:, number, *part])


def _same_numerics(predict: Predict, plan: Plan) -> None:
    """Refuse blocks of a plan that was made for other arithmetic."""
    own = getattr(predict, "numerics", None)
    if own not in {None, plan.numerics}:
        msg = (
            f"this worker computes in {own}, others in {plan.numerics}: use workers of one kind, or --device "
            "and --fp32 to make them so"
        )
        raise DeviceError(msg)


def numerics_of(predictor: Recipe[Predict]) -> str:
    """What arithmetic a predictor does in this process, such as ``"cpu bfloat16"``."""
    with PREDICTORS.use(predictor) as predict:
        return str(getattr(predict, "numerics", "any"))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall time of what is done inside to a stage's."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def segment(
    task: BlockTask, work: Iterable[Work], *, mapper: Mapper, ledger: Ledger
) -> Iterator[BlockResult]:
    """Do every block of a slide, and commit each to the ledger before it is handed on."""
    for result in mapper(task, work):
        if not result.resumed:
            ledger.add(result.done)
        yield result
