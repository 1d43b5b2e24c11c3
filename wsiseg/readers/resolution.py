"""Which microns per pixel to believe.

An explicit value comes first, then the file's own, then the objective's power. A value
that is given but implausible is refused: it is never passed over in silence for the next.
"""

import re
from html import unescape
from typing import NamedTuple

from wsiseg.errors import ResolutionError

__all__ = ["OME_UM", "UM", "Mpp", "choose_mpp", "ome_mpp"]

LEAST, MOST = 0.1, 2.0
"""Plausible microns per level-0 pixel: 100x oil to a 5x overview."""
SQUARE = 0.02
"""How far mpp along x and y may differ, of their mean."""
UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25_400.0,
}
"""Micrometres per unit of length, by the names that NGFF takes from UDUNITS-2."""
OME_UM = {
    "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0,
}  # fmt: skip
"""The same by the signs of OME-XML, the micro sign and the Greek letter alike."""
USUAL = "(0.25 is usual at 40x, 0.5 at 20x)"


class Mpp(NamedTuple):
    """Microns per level-0 pixel and where they come from, in words."""

    value: float
    source: str


def choose_mpp(
    name: str,
    given: Mpp | None,
    metadata: tuple[float | None, float | None],
    *,
    metadata_source: str,
    objective: float | None,
) -> Mpp:
    """The microns per pixel of the slide ``name``.

    >>> choose_mpp("a.svs", None, (0.25, 0.25), metadata_source="openslide.mpp-x", objective=40)
    Mpp(value=0.25, source='openslide.mpp-x')
    >>> choose_mpp("a.svs", None, (None, None), metadata_source="", objective=20)
    Mpp(value=0.5, source='objective power 20')

    Raises:
        ResolutionError: nothing says, what says is implausible, or pixels are not square.
    """
    if given is not None:
        if not LEAST <= given.value <= MOST:
            msg = (
                f"{given.source} {given.value:g} for {name} is implausible: "
                f"give microns per pixel between {LEAST} and {MOST} {USUAL}"
            )
            raise ResolutionError(msg)
        return given
    x, y = metadata
    if x is not None and y is not None:
        return Mpp(_square(name, x, y), metadata_source)
    if x is not None or y is not None:
        msg = f"{name} has microns per pixel along one axis only; pass --slide-mpp {USUAL}"
        raise ResolutionError(msg)
    if objective is None:
        msg = f"{name} has no microns per pixel; pass --slide-mpp {USUAL}"
        raise ResolutionError(msg)
    if not LEAST <= 10 / max(objective, 1e-9) <= MOST:
        msg = (
            f"{name} has no microns per pixel and an implausible objective power of {objective:g}; "
            f"pass --slide-mpp {USUAL}"
        )
        raise ResolutionError(msg)
    return Mpp(10 / objective, f"objective power {objective:g}")


def _square(name: str, x: float, y: float) -> float:
    for value in (x, y):
        if not LEAST <= value <= MOST:
            msg = (
                f"{name} says {value:g} microns per pixel, which looks like a dpi tag and not like "
                f"a microscope's resolution; pass --slide-mpp {USUAL}"
            )
            raise ResolutionError(msg)
    mean = (x + y) / 2
    if abs(x - y) > SQUARE * mean:
        msg = (
            f"{name} has pixels that are not square ({x:g} by {y:g} microns); "
            f"pass --slide-mpp if that is a fault of its metadata"
        )
        raise ResolutionError(msg)
    return mean


def ome_mpp(xml: str) -> tuple[float | None, float | None]:
    """Microns per pixel along x and y of the first image of an OME-XML (2016-06, ``Pixels``).

    >>> ome_mpp('<OME><Image><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm"></Pixels></Image></OME>')
    (0.25, None)
    """
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    said = dict(re.findall(r'(\w+)="([^"]*)"', unescape(pixels.group()))) if pixels else {}

    def along(axis: str) -> float | None:
        um = OME_UM.get(said.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            return None if um is None else float(said[f"PhysicalSize{axis}"]) * um
        except (KeyError, ValueError):
            return None

    return along("X"), along("Y")
