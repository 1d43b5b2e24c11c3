"""KFBIO ``.kfb`` slides through kfbslide, an extra: ``pip install 'wsiseg[kfb]'``."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from wsiseg.errors import SlideOpenError
from wsiseg.readers.levels import Facts, Level, Raw, first_level0, flatten, number

__all__ = ["KfbLevels"]


class KfbLevels:
    """A slide as kfbslide sees it: OpenSlide's interface, without bounds and background colour."""

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether it is called ``.kfb``: its own word for it stands nowhere public."""
        return path.suffix.lower() == ".kfb" and path.is_file()

    def __init__(self, path: Path) -> None:
        try:
            library = import_module("kfbslide")
        except ImportError as error:
            msg = f"{path.name} is a KFBIO slide, which kfbslide reads: pip install 'wsiseg[kfb]'"
            raise SlideOpenError(msg) from error
        self._slide = _strict(library)(str(path))
        self._facts = _facts(self._slide)
        self._downsamples: tuple[float, ...] = self._slide.level_downsamples

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; kfbslide takes their place in level 0 and rounds down."""
        x, y, w, h = box
        downsample = self._downsamples[level]
        at = first_level0(x, downsample), first_level0(y, downsample)
        return Raw(flatten(np.asarray(self._slide.read_region(at, level, (w, h)))))

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()


def _strict(library: Any) -> Any:
    """Kfbslide's slide, without its search for another picture near a tile that cannot be decoded."""

    class Strict(library.OpenSlide):  # type: ignore[misc]
        def _try_heal_tile(self, _: int, error: Exception) -> NoReturn:
            raise error

    return Strict


def _facts(slide: Any) -> Facts:
    properties = slide.properties
    mpp = number(properties.get("openslide.mpp-x")) or None, number(properties.get("openslide.mpp-y")) or None
    return Facts(
        reader=f"kfbslide {version('kfbslide')}",
        vendor=properties.get("openslide.vendor", "kfbio"),
        levels=tuple(Level(w, h) for w, h in slide.level_dimensions),
        bounds=None,
        mpp=mpp,
        mpp_source="openslide.mpp-x",
        objective=number(properties.get("openslide.objective-power")) or None,
    )
