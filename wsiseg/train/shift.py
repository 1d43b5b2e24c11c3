"""What another scanner or laboratory does to an image, played: five changes of known size.

Each is made to the image as the network sees it (canvas pixels, about 0.73 µm), so that an
amount means the same for every source, whatever its own pixels. Which way an image is changed
is drawn from its key, once and for all: the same images give the same figures.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from wsiseg.errors import UsageError
from wsiseg.train.augment import STAINS

__all__ = ["SHIFTS", "shifted"]

BRIGHTER = 0.2
CONTRAST = 0.3
STAIN = 0.25
BLUR_PX = 1.5
JPEG = 70

RGB = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def shifted(rgb_YX3: RGB, name: str, key: str) -> RGB:
    """An image (Y, X, 3) as another scanner might have given it; ``key`` decides which way.

    >>> image = np.full((4, 4, 3), 100, np.uint8)
    >>> sorted({int(shifted(image, "brightness", key).max()) for key in "abcdefgh"})
    [80, 120]

    Raises:
        UsageError: there is no shift of that name.
    """
    if name not in SHIFTS:
        msg = f"no shift {name!r}; there are {', '.join(SHIFTS)}"
        raise UsageError(msg)
    seed = int.from_bytes(hashlib.sha256(f"{name}/{key}".encode()).digest()[:8], "big")
    changed = SHIFTS[name](rgb_YX3, np.random.default_rng(seed))
    whole: RGB = np.rint(changed.clip(0, 255)).astype(np.uint8)
    return whole


def _either(rng: np.random.Generator, amount: float, count: int) -> Floats:
    """Factors of 1 - amount or 1 + amount, at random."""
    return 1 + amount * rng.choice([-1.0, 1.0], count)


def _brightness(rgb_YX3: RGB, rng: np.random.Generator) -> Floats:
    return rgb_YX3 * _either(rng, BRIGHTER, 1)


def _contrast(rgb_YX3: RGB, rng: np.random.Generator) -> Floats:
    mean = rgb_YX3.mean()
    rgb: Floats = mean + (rgb_YX3 - mean) * _either(rng, CONTRAST, 1)
    return rgb


def _hed(rgb_YX3: RGB, rng: np.random.Generator) -> Floats:
    stains = np.array(STAINS)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    mix = np.linalg.inv(stains) @ np.diag(_either(rng, STAIN, 3)) @ stains
    density = -np.log((rgb_YX3 + 1.0) / 256)
    rgb: Floats = 256 * np.exp(-(density @ mix)) - 1
    return rgb


def _blur(rgb_YX3: RGB, _: np.random.Generator) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(rgb_YX3.astype(np.float64), (BLUR_PX, BLUR_PX, 0))
    return blurred


def _jpeg(rgb_YX3: RGB, _: np.random.Generator) -> Floats:
    file = io.BytesIO()
    Image.fromarray(rgb_YX3).save(file, "JPEG", quality=JPEG)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), np.float64)


SHIFTS: dict[str, Callable[[RGB, np.random.Generator], Floats]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "hed": _hed,
    "blur": _blur,
    "jpeg70": _jpeg,
}
"""brightness: × 0.8 or × 1.2. contrast: ± 30 % about the image's mean. hed: the density of each of
haematoxylin, eosin and residual × 0.75 or × 1.25. blur: Gaussian, sigma 1.5 px. jpeg70: saved as
JPEG of quality 70."""
