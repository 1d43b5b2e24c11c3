"""The one resize of the project, used in training and inference alike.

The kernel moves more pixels across 0.5 than half precision does, so it is a fact of the
bundle (``BundleSpec.resample``) and never a choice of the caller's moment. All kernels are
Pillow's: their support grows with the reduction, which is what "anti-aliased" means here.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["KERNELS", "Kernel", "resize"]

Kernel = Literal["bilinear", "bicubic", "lanczos"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

_PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
"""How far a kernel reaches, in the larger of source and target pixels, to either side."""


def resize(
    image: npt.NDArray[np.uint8],
    size: tuple[int, int],
    *,
    kernel: Kernel,
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Resample ``image`` (Y, X, 3) or (Y, X) uint8 to ``size`` = (height, width).

    ``box`` is the part of the image to take, as ``left, top, right, bottom`` in its pixels,
    fractions allowed; pixels outside the box but inside the image are used at the rim.

    >>> resize(np.full((6, 9, 3), 7, np.uint8), (4, 6), kernel="bilinear").shape
    (4, 6, 3)
    """
    height, width = size
    whole = (0, 0, image.shape[1], image.shape[0])
    if image.shape[:2] == size and (box is None or tuple(box) == whole):
        return image
    resized = Image.fromarray(image).resize((width, height), _PILLOW[kernel], box=box)
    return np.asarray(resized)
