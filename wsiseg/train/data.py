"""Images at the network's resolution, in memory, and the crops that are drawn from them.

An image is resampled once from its own microns per pixel to the canvas', with the kernel
that inference uses (``BundleSpec.resample``). The crops of an epoch depend only on the
seed, the fold and the epoch: whoever makes them, in whatever order, makes the same.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsiseg.resample import Kernel, resize
from wsiseg.train.augment import (
    ColourShift,
    Window,
    draw_colour,
    draw_glass,
    draw_window,
    lay_glass,
    soiled,
    turned,
)
from wsiseg.train.cases import Case, read_mask, read_rgb
from wsiseg.train.recipe import Recipe

__all__ = ["Batch", "Sample", "cut", "epoch_batches", "load_samples", "plan_epoch"]

LOADERS = 2
HALF = 128  # a resampled mask is tumour from here on
AHEAD = 3
RIM = 8  # pixels around a window that the kernel may reach


@dataclass(frozen=True, slots=True)
class Sample:
    """A case in memory, in canvas pixels: RGB (Y, X, 3), and its mask (Y, X) of 0 and 255."""

    case: Case
    rgb_YX3: npt.NDArray[np.uint8]
    mask_YX: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from.

    Attributes:
        rgb_B3YX: uint8 RGB.
        tumour_BYX: float32, 1 where there is tumour.
        counted_BYX: float32, 0 where a crop reaches outside its image; the loss leaves it out.
        colour: how the colours are to be changed on the device.
        keys: the cases' keys, to name them when something goes wrong.
    """

    rgb_B3YX: Tensor
    tumour_BYX: Tensor
    counted_BYX: Tensor
    colour: ColourShift
    keys: tuple[str, ...]


def load_samples(cases: Sequence[Case], *, mpp: float, kernel: Kernel) -> list[Sample]:
    """Read cases and resample them to ``mpp``; in the order given.

    A mask is resampled as an image of 0 and 255 and cut at the middle.
    """

    def load(case: Case) -> Sample:
        rgb_YX3, mask_YX = read_rgb(case.image), read_mask(case.mask)
        height, width = (max(1, round(side * case.mpp / mpp)) for side in mask_YX.shape)
        grey_YX = resize(mask_YX, (height, width), kernel=kernel)
        mask_YX = np.where(grey_YX >= HALF, np.uint8(255), np.uint8(0))
        return Sample(case, resize(rgb_YX3, (height, width), kernel=kernel), mask_YX)

    with ThreadPoolExecutor(LOADERS) as pool:
        return list(pool.map(load, cases))


def plan_epoch(samples: Sequence[Sample], recipe: Recipe, rng: np.random.Generator) -> list[int]:
    """Which sample each crop of an epoch comes from, in order; whole batches, at least one.

    An image gives as many crops as its area holds, at least one. With ``balance`` and several domains as many
    are drawn, a domain of n crops as often as n ** (1 - balance) is to the others. With ``steps`` the epoch
    has so many batches: some images are left out, or every one is gone through several times.
    """
    counts = [max(1, round(sample.mask_YX.size / recipe.crop**2)) for sample in samples]
    total = (recipe.steps or -(-sum(counts) // recipe.batch)) * recipe.batch
    domains = [(sample.case.task, sample.case.domain) for sample in samples]
    if recipe.balance and len(set(domains)) > 1:
        size = {
            domain: sum(c for c, d in zip(counts, domains, strict=True) if d == domain) for domain in domains
        }
        weights = np.array([c / size[d] ** recipe.balance for c, d in zip(counts, domains, strict=True)])
        return [int(i) for i in rng.choice(len(samples), total, p=weights / weights.sum())]
    every = np.repeat(np.arange(len(samples)), counts)
    rounds, rest = divmod(total, len(every))
    more = rng.choice(every, rest, replace=not recipe.steps)
    return [int(i) for i in rng.permutation(np.concatenate([*[every] * rounds, more]))]


def cut(
    sample: Sample, window: Window, *, crop: int, kernel: Kernel
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """RGB (crop, crop, 3), mask and what counts (crop, crop; 0 or 255) of one window.

    Outside the image is white, as it is outside a slide, and does not count.
    """
    height, width = sample.mask_YX.shape
    x, y, side = window.x, window.y, window.side
    (x0, x1), (y0, y1) = _span(x, x + side, width), _span(y, y + side, height)
    part = slice(max(0, y0), min(height, y1)), slice(max(0, x0), min(width, x1))
    pad = (part[0].start - y0, y1 - part[0].stop), (part[1].start - x0, x1 - part[1].stop)
    rgb_YX3 = np.pad(sample.rgb_YX3[part], (*pad, (0, 0)), constant_values=255)
    mask_YX = np.pad(sample.mask_YX[part], pad)
    box = (x - x0, y - y0, x - x0 + side, y - y0 + side)
    rgb = resize(rgb_YX3, (crop, crop), kernel=kernel, box=box)
    grey = resize(mask_YX, (crop, crop), kernel=kernel, box=box)
    centres = (np.arange(crop) + 0.5) * side / crop
    inside = np.outer(
        (y + centres >= 0) & (y + centres <= height), (x + centres >= 0) & (x + centres <= width)
    )
    mask = np.where(grey >= HALF, np.uint8(255), np.uint8(0))
    counted = np.where(inside, np.uint8(255), np.uint8(0))
    return turned(rgb, window), turned(mask, window), turned(counted, window)


def _span(start: float, stop: float, length: int) -> tuple[int, int]:
    """The whole pixels from ``start`` to ``stop`` and up to RIM more of them inside the image."""
    first, last = int(np.floor(start)), int(np.ceil(stop))
    return min(first, max(0, first - RIM)), max(last, min(length, last + RIM))


def epoch_batches(
    samples: Sequence[Sample],
    recipe: Recipe,
    seed: tuple[int, ...],
    *,
    share: tuple[int, int],
    kernel: Kernel,
) -> Iterator[Batch]:
    """The batches of one epoch, made ahead by threads; the same for the same ``seed``.

    ``share`` = (rank, ranks): of every batch this process takes each ``ranks``-th crop.
    """
    order = plan_epoch(samples, recipe, np.random.default_rng(seed))
    rank, ranks = share

    def make(start: int) -> Batch:
        places = range(start, start + recipe.batch)[rank::ranks]
        crops = [(order[place], np.random.default_rng((*seed, place))) for place in places]
        return _batch(samples, crops, recipe, kernel)

    with ThreadPoolExecutor(LOADERS) as pool:
        waiting: list[Future[Batch]] = []
        for start in range(0, len(order), recipe.batch):
            waiting.append(pool.submit(make, start))
            if len(waiting) > AHEAD:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _batch(
    samples: Sequence[Sample],
    crops: Sequence[tuple[int, np.random.Generator]],
    recipe: Recipe,
    kernel: Kernel,
) -> Batch:
    """One crop of each sample named, each drawn by a generator of its own."""
    cuts, colours, keys = [], [], []
    for number, rng in crops:
        sample = samples[number]
        done = _window(sample, rng, recipe.crop, recipe, kernel)
        colours.append(draw_colour(rng, 1, colour=recipe.colour_jitter, stain=recipe.stain_jitter))
        keys.append(sample.case.key)
        if recipe.mosaic and rng.random() < recipe.mosaic:
            others = [samples[i] for i in rng.integers(len(samples), size=3)]
            done = _mosaic([sample, *others], rng, recipe, kernel)
            keys[-1] = " + ".join([sample.case.key, *(other.case.key for other in others)])
        if recipe.glass and rng.random() < recipe.glass:
            done = lay_glass(done, draw_glass(rng, recipe.crop), rng)
        if recipe.blur or recipe.jpeg:
            done = (soiled(done[0], rng, blur=recipe.blur, jpeg=recipe.jpeg), *done[1:])
        cuts.append(done)
    rgb_BYX3, mask_BYX, counted_BYX = (np.stack(arrays) for arrays in zip(*cuts, strict=True))
    return Batch(
        torch.from_numpy(rgb_BYX3).permute(0, 3, 1, 2),
        torch.from_numpy(mask_BYX).float() / 255,
        torch.from_numpy(counted_BYX).float() / 255,
        ColourShift(*(torch.cat([getattr(c, part) for c in colours]) for part in ("light", "stain", "wash"))),
        tuple(keys),
    )


def _window(
    sample: Sample, rng: np.random.Generator, side: int, recipe: Recipe, kernel: Kernel
) -> tuple[npt.NDArray[np.uint8], ...]:
    """RGB, mask and what counts of a random window of ``side`` pixels."""
    window = draw_window(
        rng, sample.mask_YX.shape, crop=side, scale_jitter=recipe.scale_jitter, flips=recipe.flips
    )
    return cut(sample, window, crop=side, kernel=kernel)


def _mosaic(
    four: Sequence[Sample], rng: np.random.Generator, recipe: Recipe, kernel: Kernel
) -> tuple[npt.NDArray[np.uint8], ...]:
    """A crop of which each of four samples, in random order, fills the part in one corner."""
    crop, (y, x) = recipe.crop, rng.integers(recipe.crop // 4, 3 * recipe.crop // 4, 2)
    whole = (np.empty((crop, crop, 3), np.uint8), *(np.empty((crop, crop), np.uint8) for _ in range(2)))
    corners = [
        (rows, columns) for rows in (slice(y), slice(y, crop)) for columns in (slice(x), slice(x, crop))
    ]
    for place, (rows, columns) in zip(rng.permutation(4), corners, strict=True):
        height, width = whole[1][rows, columns].shape
        parts = _window(four[place], rng, max(height, width), recipe, kernel)
        for array, part in zip(whole, parts, strict=True):
            array[rows, columns] = part[:height, :width]
    return whole
