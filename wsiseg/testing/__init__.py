"""Fakes for the two ports, shipped so that anyone can test against wsiseg without a slide or a GPU."""

from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.geometry import L0, Box
from wsiseg.resample import resize
from wsiseg.slide import SlideInfo

__all__ = ["DARKNESS", "ArraySlide", "BlurPredictor", "Darkness", "array_info"]

DARKNESS = BundleSpec(
    name="darkness",
    encoder="mit_b0",
    patch_px=375,
    input_px=256,
    margin=64,
    folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),),
    licence="none",
    trained_on="nothing",
)
"""What a bundle of ``Darkness`` would say, which has no file: patches of 256 px make tests quick."""


def array_info(width: int, height: int, *, mpp: float = 0.5, bounds: Box[L0] | None = None) -> SlideInfo:
    """The facts of a slide of so many level-0 pixels with one level."""
    return SlideInfo(
        name="array.tif",
        width=width,
        height=height,
        bounds=Box(0, 0, width, height) if bounds is None else bounds,
        mpp=mpp,
        mpp_source="test",
        objective=None,
        downsamples=(1.0,),
        vendor="array",
        reader="array 1",
        fingerprint=f"{width}x{height}",
    )


class ArraySlide:
    """A slide in memory, (Y, X, 3) uint8; keeps a list of every box that was read."""

    def __init__(self, rgb_YX3: npt.NDArray[np.uint8], info: SlideInfo | None = None) -> None:
        height, width, _ = rgb_YX3.shape
        self.rgb_YX3 = rgb_YX3
        self.info = replace(info or array_info(width, height), width=width, height=height)
        self.reads: list[Box[L0]] = []

    def read(self, box: Box[L0], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The pixels of a box, white outside the array."""
        self.reads.append(box)
        rgb_YX3 = np.full((box.h, box.w, 3), 255, np.uint8)
        inside = box & self.info.extent
        if inside:
            rgb_YX3[inside.within(box)] = self.rgb_YX3[inside.within(self.info.extent)]
        return resize(rgb_YX3, size, kernel="bilinear")

    def __reduce__(self) -> NoReturn:
        msg = "a slide holds open handles; send its path and open it there"
        raise TypeError(msg)


@dataclass
class BlurPredictor:
    """A network whose answer is known: darkness averaged over a square of ``2 · radius + 1`` pixels.

    Its receptive field is exactly ``radius``, its arithmetic is in integers, and fold *k*
    answers with ``weights[k]`` times the darkness, so maps can be compared bit by bit.
    """

    radius: int
    weights: tuple[float, ...] = (1.0,)
    calls: list[int] = field(default_factory=list)

    def __call__(self, rgb_BYX3: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """Probabilities (F, B, Y, X) of patches (B, Y, X, 3)."""
        self.calls.append(len(rgb_BYX3))
        side = 2 * self.radius + 1
        dark_BYX = 765 - rgb_BYX3.sum(axis=-1, dtype=np.int64)
        padded = np.pad(dark_BYX, ((0, 0), (self.radius + 1, self.radius), (self.radius + 1, self.radius)))
        total = padded.cumsum(axis=1).cumsum(axis=2)
        square = (
            total[:, side:, side:]
            - total[:, :-side, side:]
            - total[:, side:, :-side]
            + total[:, :-side, :-side]
        )
        dark = (square / (side * side * 765)).astype(np.float32)
        return np.stack([dark * np.float32(weight) for weight in self.weights])


@dataclass(frozen=True)
class Darkness:
    """A recipe for a ``BlurPredictor``, picklable, for tests with worker processes.

    ``contrast`` stretches the answer around ``middle`` (darkness 0 to 1), so that drawn
    tumour comes out above one half and drawn stroma below it.
    """

    radius: int = 7
    middle: float = 0.43
    contrast: float = 6.0

    def __call__(self) -> "Stretched":
        """Make the predictor."""
        return Stretched(BlurPredictor(self.radius), self.middle, self.contrast)


@dataclass
class Stretched:
    """Another predictor's answer, stretched around ``middle`` and clipped to 0 … 1."""

    predictor: BlurPredictor
    middle: float
    contrast: float
    numerics: str = "integers"

    def __call__(self, rgb_BYX3: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """Probabilities (F, B, Y, X) of patches (B, Y, X, 3)."""
        dark_FBYX = self.predictor(rgb_BYX3)
        self.predictor.calls.clear()
        stretched = (dark_FBYX - self.middle) * self.contrast + 0.5
        return np.asarray(stretched.clip(0, 1), np.float32)
