"""What a reader should know before trusting a slide's result, in words.

The words stand in ``slide.json``, ``summary.csv`` and ``report.html``. Whether the stain is one that
the networks know is not among them: no bundle says yet what its training slides looked like.
"""

from collections.abc import Iterator

from wsiseg.focus import BLURRED_BELOW
from wsiseg.manifest import SlideManifest
from wsiseg.plan import COARSE_WARNING

__all__ = ["BY_HAND", "flags"]

BY_HAND = ("--slide-mpp", "the slide list")
"""Sources of microns per pixel that are a person, not the file."""
PARTLY = 0.25
"""This part of the fields out of focus, or more, is told though the slide as a whole is sharp."""


def flags(manifest: SlideManifest, to_review: int) -> tuple[str, ...]:
    """The flags of a slide with so many regions to review, the gravest first; often there are none."""
    return (*_of_the_slide(manifest), *_of_the_result(manifest, to_review))


def _of_the_slide(manifest: SlideManifest) -> Iterator[str]:
    slide, result, focus = manifest.slide, manifest.result, manifest.focus
    if result.tissue_mm2 == 0:
        yield "no tissue found: empty, all glass, or very pale"
    elif result.tissue_mm2 is None:
        yield "tissue was not looked for: everything was segmented"
    if manifest.unreadable:
        yield f"{result.unreadable_mm2:.2f} mm² unreadable"
    if slide.mpp_source.startswith("objective"):
        yield f"microns per pixel assumed from {slide.mpp_source}"
    elif slide.mpp_source in BY_HAND:
        yield f"microns per pixel given by hand ({slide.mpp_source})"
    if manifest.canvas.factor * COARSE_WARNING < 1:
        yield f"enlarged {1 / manifest.canvas.factor:.1f} times: the network expects finer detail"
    if focus.sharpness is not None and focus.sharpness < BLURRED_BELOW:
        yield f"out of focus: sharpness {focus.sharpness:.3f}, under {BLURRED_BELOW:g}"
    elif focus.blurred and focus.blurred >= PARTLY * focus.fields:
        yield f"partly out of focus: {focus.blurred} of {focus.fields} fields"


def _of_the_result(manifest: SlideManifest, to_review: int) -> Iterator[str]:
    if to_review:
        yield f"{to_review} of {manifest.counts.polygons} regions to review"
    if len(manifest.model.weights) == 1:
        yield "one network: it cannot disagree with itself"
