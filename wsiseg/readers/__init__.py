"""Slides from files: the only place that knows slide libraries.

``open_slide`` is the door. OpenSlide comes first; tiffslide only for what OpenSlide does
not know at all, because tiffslide reads truncated and damaged files without a word.
"""

from importlib import import_module
from pathlib import Path
from typing import cast

from wsiseg.errors import SlideOpenError, UsageError
from wsiseg.geometry import Box
from wsiseg.readers.files import check_file, fingerprint
from wsiseg.readers.levels import Levels, OpenLevels
from wsiseg.readers.pyramid import PyramidSlide, downsamples
from wsiseg.readers.resolution import Mpp, choose_mpp
from wsiseg.resample import Kernel
from wsiseg.slide import SlideInfo

__all__ = ["READERS", "open_slide"]

READERS = {
    "openslide": "wsiseg.readers.openslide_reader:OpenSlideLevels",
    "tiffslide": "wsiseg.readers.tiffslide_reader:TiffSlideLevels",
}
"""Names for ``reader=`` and where each one's ``Levels`` is."""


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    mpp_source: str = "--slide-mpp",
    reader: str = "auto",
    kernel: Kernel = "bilinear",
    known_fingerprint: str | None = None,
) -> PyramidSlide:
    """Open a slide for reading; use it in a ``with``.

    Args:
        path: the slide's file; side-car files are found beside it.
        mpp: microns per level-0 pixel, over whatever the file says.
        mpp_source: where ``mpp`` comes from, in words, for the record.
        reader: a name of ``READERS``, or ``"auto"``.
        kernel: the resampling kernel, a fact of the bundle that will see the pixels.
        known_fingerprint: spares hashing the file again when it was opened before.

    Raises:
        UsageError: no such reader.
        SlideOpenError: not a slide, damaged, cut short, or of no known format.
        ResolutionError: microns per pixel unknown, implausible or not square.
    """
    path = Path(path)
    check_file(path)
    opener = _opener(path, reader)
    levels = opener(path)
    try:
        given = None if mpp is None else Mpp(mpp, mpp_source)
        info = _info(path, levels, given, known_fingerprint)
    except BaseException:
        levels.close()
        raise
    return PyramidSlide(path, levels, info, reopen=opener, kernel=kernel)


def _opener(path: Path, reader: str) -> OpenLevels:
    if reader != "auto" and reader not in READERS:
        msg = f"no reader {reader!r}: choose auto, {', '.join(READERS)}"
        raise UsageError(msg)
    if reader == "tiffslide":
        return _resolve("tiffslide")
    if _openslide_knows(path):
        return _resolve("openslide")
    if reader == "openslide":
        msg = f"{path.name} is of no format that openslide knows; try --reader auto"
        raise SlideOpenError(msg)
    return _resolve("tiffslide")


def _resolve(name: str) -> OpenLevels:
    module, _, attribute = READERS[name].partition(":")
    return cast("OpenLevels", getattr(import_module(module), attribute))


def _openslide_knows(path: Path) -> bool:
    from wsiseg.readers.openslide_reader import knows  # noqa: PLC0415 - a library is loaded when it is needed

    return knows(path)


def _info(path: Path, levels: Levels, given: Mpp | None, known_fingerprint: str | None) -> SlideInfo:
    facts = levels.facts
    mpp = choose_mpp(path.name, given, facts.mpp, metadata_source=facts.mpp_source, objective=facts.objective)
    first = facts.levels[0]
    whole = Box(0, 0, first.width, first.height)
    return SlideInfo(
        name=path.name,
        width=first.width,
        height=first.height,
        bounds=(facts.bounds & whole if facts.bounds else whole) or whole,
        mpp=mpp.value,
        mpp_source=mpp.source,
        objective=facts.objective,
        downsamples=tuple((x + y) / 2 for x, y in downsamples(facts.levels)),
        vendor=facts.vendor,
        reader=facts.reader,
        fingerprint=known_fingerprint or fingerprint(path, facts.vendor),
    )
