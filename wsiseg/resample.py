"""The resize of the project, used in training and, but for patches on the lattice, in inference.

The kernel moves more pixels across 0.5 than half precision does, so it is a fact of the
bundle (``BundleSpec.resample``) and never a choice of the caller's moment. All kernels are
Pillow's: their support grows with the reduction, which is what "anti-aliased" means here.
``wsiseg.shrink`` applies the same bilinear one, to within a grey level (decision 0013).
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

    Columns are resampled first, then rows, each rounded to uint8. Pillow chooses the order
    of its two passes by the image's shape (seen in 13.0), and the order moves last bits: a
    pixel's colour would depend on the box that it was read with.

    >>> resize(np.full((6, 9, 3), 7, np.uint8), (4, 6), kernel="bilinear").shape
    (4, 6, 3)
    """
    height, width = size
    rows, columns = image.shape[:2]
    left, top, right, bottom = box or (0, 0, columns, rows)
    if (height, width, left, top, right, bottom) == (rows, columns, 0, 0, columns, rows):
        return image
    pixels = Image.fromarray(image)
    if (width, left, right) != (columns, 0, columns):
        pixels = pixels.resize((width, rows), _PILLOW[kernel], box=(left, 0, right, rows))
    if (height, top, bottom) != (rows, 0, rows):
        pixels = pixels.resize((width, height), _PILLOW[kernel], box=(0, top, width, bottom))
    return np.asarray(pixels)
