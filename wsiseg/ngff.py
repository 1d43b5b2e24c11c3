"""The words of OME-Zarr: NGFF 0.5 metadata of the map (https://ngff.openmicroscopy.org/0.5/)."""

from typing import Any

from wsiseg.geometry import Scale

__all__ = ["CHANNELS", "LABELS", "OMERO", "multiscales"]

CHANNELS = ("tumor probability", "fold disagreement")


def multiscales(
    name: str, scale: Scale, mpp: float, factors: list[float], *, channels: bool
) -> dict[str, Any]:
    """The ``multiscales`` entry of an image or label (NGFF 0.5, section 3.4).

    Pixel centres are placed in µm from the centre of the slide's level-0 pixel (0, 0).

    Args:
        name: the image's name.
        scale: where its first pixel begins on level 0; its factor is not used.
        mpp: microns per level-0 pixel.
        factors: level-0 pixels per pixel of each pyramid level.
        channels: whether a channel axis comes before y and x.
    """
    axes: list[dict[str, str]] = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    lead = [1.0] if channels else []
    datasets = []
    for level, factor in enumerate(factors):
        shift = [(start + factor / 2 - 0.5) * mpp for start in (scale.y, scale.x)]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*lead, factor * mpp, factor * mpp]},
                    {"type": "translation", "translation": [*([0.0] if channels else []), *shift]},
                ],
            }
        )
    return {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *axes] if channels else axes,
        "datasets": datasets,
        "type": "mean",
    }


OMERO = {
    "channels": [
        {
            "label": label,
            "color": color,
            "active": active,
            "window": {"start": 0, "end": 255, "min": 0, "max": 255},
        }
        for label, color, active in zip(CHANNELS, ("C80000", "0064C8"), (True, False), strict=True)
    ],
    "rdefs": {"model": "color"},
}
"""How the channels are shown (NGFF 0.5, section 3.5): names, colours, windows, which are on."""

LABELS = {
    name: {"colors": [{"label-value": 1, "rgba": rgba}], "source": {"image": "../../"}}
    for name, rgba in (("tissue", [0, 160, 80, 96]), ("unreadable", [128, 128, 128, 160]))
}
"""How the masks are shown and of which image they are (NGFF 0.5, section 3.6)."""
