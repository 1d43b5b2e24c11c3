"""TEKSQRAY ``.sdpc`` slides through opensdpc, which is installed by hand: ``pip install opensdpc``.

It is no extra of ours: its wheel is for Linux and Windows on x86-64 and carries the vendor's closed
decoder and FFmpeg with x264 and x265, whose licences do not go with ours.
"""

import threading
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import SlideOpenError
from wsiseg.readers.levels import Facts, Level, Raw, first_level0, number

__all__ = ["SdpcLevels"]


class SdpcLevels:
    """A slide as opensdpc sees it: OpenSlide's interface in part; RGB without alpha."""

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether it is called ``.sdpc``, by which opensdpc knows it too."""
        return path.suffix.lower() == ".sdpc" and path.is_file()

    def __init__(self, path: Path) -> None:
        try:
            library = import_module("opensdpc")
        except ImportError as error:
            msg = f"{path.name} is a TEKSQRAY slide, which opensdpc reads: pip install opensdpc"
            raise SlideOpenError(msg) from error
        except OSError as error:
            msg = f"{path.name} needs opensdpc, whose own libraries cannot be loaded here ({error})"
            raise SlideOpenError(msg) from error
        self._lock = threading.Lock()  # nothing is said of threads
        self._slide: Any = library.OpenSdpc(str(path))
        self._facts = _facts(self._slide)
        self._downsamples: tuple[float, ...] = self._slide.level_downsamples

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; opensdpc takes their place in level 0 and rounds down."""
        x, y, w, h = box
        downsample = self._downsamples[level]
        at = first_level0(x, downsample), first_level0(y, downsample)
        with self._lock:
            if self._slide is None:
                msg = "the slide is closed"
                raise ValueError(msg)
            return Raw(np.array(self._slide.read_region(at, level, (w, h)))[..., :3])

    def close(self) -> None:
        """Give the file back; a second call would end the process."""
        with self._lock:
            if self._slide is not None:
                self._slide.close()
            self._slide = None


def _facts(slide: Any) -> Facts:
    head = slide.sdpc.contents.picHead.contents
    mpp = number(head.ruler) or None
    return Facts(
        reader=f"opensdpc {version('opensdpc')}",
        vendor="teksqray",
        levels=tuple(Level(w, h) for w, h in slide.level_dimensions),
        bounds=None,
        mpp=(mpp, mpp),
        mpp_source="sdpc ruler",
        objective=number(slide.scan_magnification) or None,
    )
