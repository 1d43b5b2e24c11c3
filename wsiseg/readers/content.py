"""Is it brightfield, and in colours that can be read as they are? What is not is refused with its reason.

Slide libraries deliver a picture all the same: of a 16-bit file its upper halves, of a stack its
first plane, of a fluorescence scan a black slide. No network here has seen such.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsiseg.errors import SlideOpenError

__all__ = [
    "TIFF",
    "check_alone",
    "check_light",
    "check_properties",
    "check_series",
    "check_tiff",
    "ome_xml",
    "planes_apart",
]

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PAGES = 4096
"""So many directories are looked at for focal planes."""
COLOURS = {"RGB", "YCBCR"}
EXPORT = "export one plane as 8-bit RGB"
NDPI_LENS, NDPI_Z, NDPI_EMISSION = 65421, 65424, 65451
"""Private tags: the lens (below 0 for macro and map), focal plane, emission wavelength in nm."""
FLUORESCENT = re.compile(
    r"<(?:\w+:)?Channel\b[^>]*\b(?:EmissionWavelength=|Fluor=|"
    r'IlluminationType="Epifluorescence"|ContrastMethod="Fluorescence")'
)
"""A channel of OME-XML (2016-06, ``Channel``) that was lit for fluorescence."""
AXES = {
    "Z": "focal planes",
    "T": "time points",
    "C": "channels",
    "I": "pictures",
    "Q": "pictures",
    "L": "exposures",
}


def check_properties(name: str, properties: Mapping[str, str]) -> None:
    """Refuse what OpenSlide's properties say is fluorescence or a stack.

    MIRAX names its kind and the levels of its hierarchy in ``Slidedat.ini``, Leica its light,
    Hamamatsu its filters.

    Raises:
        SlideOpenError: with the reason.
    """
    kind = properties.get("mirax.GENERAL.SLIDE_TYPE", "") + properties.get("leica.illumination-source", "")
    filters = " ".join(value for key, value in properties.items() if "NDP Shading Data" in key)
    if "fluorescence" in kind.lower() or re.search(r"EmissionWaveLength=\s*[1-9]", filters):
        raise SlideOpenError(_fluorescence(name))
    for key, value in properties.items():
        if key.startswith("mirax.HIERARCHICAL.HIER_") and value == "Microscope focus level":
            planes = properties.get(key.removesuffix("NAME") + "COUNT", "1")
            if planes != "1":
                raise SlideOpenError(_stack(name, planes, "focal planes"))


def check_tiff(path: Path, *, series: bool) -> None:
    """Refuse a TIFF of other than 8-bit brightfield colour or grey, before a library makes some of it.

    Does nothing to a file that is no TIFF, or so odd that tifffile cannot tell what it holds:
    that is for the library to judge.

    Args:
        path: any file.
        series: judge how the pages belong together as well; False for a vendor's own layout,
            where the pages are levels, label and macro.

    Raises:
        SlideOpenError: with the reason.
    """
    with path.open("rb") as file:
        if file.read(4) not in TIFF:
            return
    try:
        with tifffile.TiffFile(path) as tiff:
            _judge(path.name, tiff, series=series)
    except SlideOpenError:
        raise
    except Exception:  # noqa: BLE001 - tifffile's failures are not one family
        return


def ome_xml(path: Path) -> str:
    """The OME-XML of a TIFF; empty where there is none, or the file is too odd for tifffile."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.ome_metadata or ""
    except Exception:  # noqa: BLE001 - tifffile's failures are not one family
        return ""


def planes_apart(path: Path) -> bool:
    """Whether a TIFF keeps red, green and blue in separate planes; False where tifffile cannot tell."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.pages.first.planarconfig.name == "SEPARATE")
    except Exception:  # noqa: BLE001 - tifffile's failures are not one family
        return False


def _judge(name: str, tiff: Any, *, series: bool) -> None:
    if len(tiff.pages) == 0:
        msg = f"{name} is cut short: no picture in it can be found; copy it again"
        raise SlideOpenError(msg)
    check_light(name, tiff)
    if series:
        if tiff.is_ome:
            check_alone(name, tiff.series[0], tiff.series)
        check_series(name, tiff.series[0])
    else:
        _check_page(name, tiff.pages.first)


def check_light(name: str, tiff: Any) -> None:
    """Refuse an open TIFF that says it is fluorescence, or an NDPI of several focal planes.

    Raises:
        SlideOpenError: with the reason.
    """
    if FLUORESCENT.search((tiff.ome_metadata or "").partition("</Image>")[0]):
        raise SlideOpenError(_fluorescence(name))
    if tiff.is_ndpi:
        _judge_ndpi(name, tiff)


def _judge_ndpi(name: str, tiff: Any) -> None:
    planes = set()
    for page in islice(tiff.pages, PAGES):
        tags = {tag.code: tag.value for tag in page.tags}
        if float(tags.get(NDPI_LENS, 0)) > 0:
            planes.add(tags.get(NDPI_Z, 0))
            if _positive(tags.get(NDPI_EMISSION)):
                raise SlideOpenError(_fluorescence(name))
    if len(planes) > 1:
        raise SlideOpenError(_stack(name, len(planes), "focal planes"))


def _positive(value: object) -> bool:
    try:
        return float(str(value)) > 0
    except ValueError:
        return False


def check_series(name: str, series: Any) -> None:
    """Refuse a TIFF's series that is a stack of planes, or whose first page is not 8-bit RGB, RGBA or grey.

    Raises:
        SlideOpenError: with the reason.
    """
    for axis, count in zip(series.axes, series.shape, strict=True):
        if axis not in "YXS" and count > 1:
            raise SlideOpenError(_stack(name, count, AXES.get(axis, f"planes along {axis}")))
    _check_page(name, series.levels[0].keyframe)


def check_alone(name: str, series: Any, every: Sequence[Any]) -> None:
    """Refuse a file of several images of which the one to be read is not the greater part: label, then slide.

    Raises:
        SlideOpenError: with the reason.
    """
    others = [one for one in every if one is not series]
    if sum(one.size for one in others) >= series.size:
        what = ", ".join(f"{one.name or '?'} ({one.shape})" for one in every[:4])
        msg = f"{name} holds {len(every)} images, {what}: which is the slide cannot be known; export it alone"
        raise SlideOpenError(msg)


def _check_page(name: str, page: Any) -> None:
    photometric, samples = page.photometric.name, page.samplesperpixel
    if page.dtype != np.uint8:
        msg = f"{name} holds {page.dtype} pixels, not the 8-bit ones of a brightfield scan; {EXPORT}"
        raise SlideOpenError(msg)
    if photometric in COLOURS:
        if samples in {3, 4}:
            return
    elif photometric == "MINISBLACK":
        if samples == 1:
            return
        raise SlideOpenError(_stack(name, samples, "channels"))
    msg = f"{name} stores its colours as {photometric} with {samples} samples, which is not read; {EXPORT}"
    raise SlideOpenError(msg)


def _fluorescence(name: str) -> str:
    return f"{name} is a fluorescence scan; only brightfield H&E can be segmented"


def _stack(name: str, count: object, what: str) -> str:
    return f"{name} holds {count} {what}: which one is meant cannot be known; {EXPORT}"
