"""Slides from files: the only place that knows slide libraries.

``open_slide`` is the door. One reader is asked for a file, the first of the registry that
knows its format, and what that one refuses is refused: another that opens it all the same
would deliver wrong pixels without a word.
"""

from pathlib import Path

from wsiseg.errors import SlideOpenError, WsisegError
from wsiseg.geometry import Box
from wsiseg.location import Location, Remote, located, printable
from wsiseg.readers.files import check_extent, check_file, fingerprint
from wsiseg.readers.levels import Levels, OpenLevels
from wsiseg.readers.pyramid import PyramidSlide, damaged, downsamples
from wsiseg.readers.registry import READERS, check_reader, choose_reader
from wsiseg.readers.remote import check_remote, fingerprint_remote
from wsiseg.readers.resolution import Mpp, choose_mpp
from wsiseg.readers.zarr_reader import is_zarr
from wsiseg.resample import Kernel
from wsiseg.slide import SlideInfo

__all__ = ["READERS", "check_reader", "open_slide"]


def open_slide(
    path: str | Location,
    *,
    mpp: float | None = None,
    mpp_source: str = "--slide-mpp",
    reader: str = "auto",
    kernel: Kernel = "bilinear",
    known_fingerprint: str | None = None,
) -> PyramidSlide:
    """Open a slide for reading; use it in a ``with``.

    Args:
        path: the slide's file, or the folder of an OME-Zarr; side-car files are found beside it. Or the
            URL of a TIFF, which tiffslide reads.
        mpp: microns per level-0 pixel, over whatever the file says.
        mpp_source: where ``mpp`` comes from, in words, for the record.
        reader: a name of ``READERS`` or of an installed package's reader, or ``"auto"``.
        kernel: the resampling kernel, a fact of the bundle that will see the pixels.
        known_fingerprint: spares hashing the file again when it was opened before.

    Raises:
        UsageError: no such reader.
        SlideOpenError: not a slide, damaged, cut short, or of no known format.
        ResolutionError: microns per pixel unknown, implausible or not square.
    """
    path = located(path) if isinstance(path, str) else path
    here = Path(path.name) if isinstance(path, Remote) else path
    check_reader(reader)
    opener = _guarded(_opener(path, reader))
    levels = opener(here)
    try:
        given = None if mpp is None else Mpp(mpp, mpp_source)
        info = _info(path, levels, given, known_fingerprint)
        return PyramidSlide(here, levels, info, reopen=opener, kernel=kernel)
    except WsisegError:
        levels.close()
        raise
    except Exception as error:  # headers that make no sense: a level without pixels, bounds turned over
        levels.close()
        raise SlideOpenError(damaged(path.name, error)) from error


def _opener(path: Location, reader: str) -> OpenLevels:
    """What opens a slide, once all is judged that can be before."""
    if not isinstance(path, Remote):
        if not is_zarr(path):
            check_file(path)
        return choose_reader(path, reader)
    from wsiseg.readers.tiffslide_reader import TiffSlideLevels  # noqa: PLC0415 - loaded when it is needed

    if reader not in {"auto", "tiffslide"}:
        msg = f"{path} is on a server, and only tiffslide reads from there; try --reader auto"
        raise SlideOpenError(msg)
    check_remote(path)
    return lambda _: TiffSlideLevels(path)


def _guarded(opener: OpenLevels) -> OpenLevels:
    """The same opener, with every foreign exception turned into ours."""

    def opened(path: Path) -> Levels:
        try:
            return opener(path)
        except WsisegError:
            raise
        except Exception as error:
            raise SlideOpenError(damaged(path.name, error)) from error

    return opened


def _info(path: Location, levels: Levels, given: Mpp | None, known_fingerprint: str | None) -> SlideInfo:
    facts = levels.facts
    mpp = choose_mpp(path.name, given, facts.mpp, metadata_source=facts.mpp_source, objective=facts.objective)
    first = facts.levels[0]
    check_extent(path.name, first.width, first.height)
    whole = Box(0, 0, first.width, first.height)
    return SlideInfo(
        name=printable(path.name),
        width=first.width,
        height=first.height,
        bounds=(facts.bounds & whole if facts.bounds else whole) or whole,
        mpp=mpp.value,
        mpp_source=mpp.source,
        objective=facts.objective,
        downsamples=tuple((x + y) / 2 for x, y in downsamples(facts.levels)),
        vendor=facts.vendor,
        reader=facts.reader,
        fingerprint=known_fingerprint or _fingerprint(path, facts.vendor),
        colour=facts.colour,
    )


def _fingerprint(path: Location, vendor: str) -> str:
    return fingerprint_remote(path) if isinstance(path, Remote) else fingerprint(path, vendor)
