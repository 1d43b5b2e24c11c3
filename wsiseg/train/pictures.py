"""Pictures of a comparison: each fold's mean Dice as a dot, and the worst cases side by side."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from wsiseg.bundle import load_spec
from wsiseg.device import choose_device
from wsiseg.ensemble import TorchPredictor
from wsiseg.model import build_network, load_fold
from wsiseg.train.cases import Case, read_cases
from wsiseg.train.compare import Run
from wsiseg.train.data import Sample, load_samples
from wsiseg.train.experiment import file_name
from wsiseg.train.loop import predict
from wsiseg.train.metrics import Score, summary
from wsiseg.train.strategies import STRATEGIES

__all__ = ["draw_contours", "draw_folds", "draw_worst", "write_worst"]

SCORED_AT = 0.5
"""From which probability a pixel is tumour in a training's scores, whatever is advised for slides."""

log = logging.getLogger(__name__)

INK, GREY, PAPER = (40, 40, 40), (200, 200, 200), (255, 255, 255)
DOT, MEAN = (31, 119, 180), (214, 39, 40)
TRUTH, PREDICTED = (0, 150, 60), (200, 0, 0)
LEFT, TOP, PLOT, COLUMN = 60, 40, 320, 150
TILE = 280


def draw_folds(runs: Sequence[Run]) -> Image.Image:
    """Dice (0 … 1) upwards, a column for each run: a dot for each fold's mean, a bar at the mean of all."""
    picture = Image.new("RGB", (LEFT + COLUMN * len(runs) + 20, TOP + PLOT + 60), PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)

    def height(dice: float) -> float:
        return TOP + PLOT * (1 - dice)

    pen.text((8, 10), "Mean Dice of each fold (dots) and of all images (bars)", INK, font)
    for tenth in range(0, 11, 2):
        y = height(tenth / 10)
        pen.line((LEFT, y, picture.width - 20, y), GREY)
        pen.text((LEFT - 30, y - 8), f"{tenth / 10:.1f}", INK, font)
    for number, run in enumerate(runs):
        x = LEFT + COLUMN * (number + 0.5)
        folds = sorted({score.fold for score in run.scores})
        for place, fold in enumerate(folds):
            y = height(summary([s for s in run.scores if s.fold == fold]).dice_mean)
            at = x + (place - (len(folds) - 1) / 2) * 12
            pen.ellipse((at - 4, y - 4, at + 4, y + 4), DOT)
        y = height(summary(run.scores).dice_mean)
        pen.line((x - 36, y, x + 36, y), MEAN, 3)
        pen.text((x, TOP + PLOT + 10), run.task, INK, font, anchor="ma")
        pen.text((x, TOP + PLOT + 28), STRATEGIES[run.strategy].title, INK, font, anchor="ma")
    return picture


def write_worst(
    out: Path,
    runs: Sequence[Run],
    data: Path,
    count: int,
    *,
    image_mpp: float | None = None,
    device: str = "auto",
) -> None:
    """Write each run's page of worst cases, ``worst-<folder>.png``; of a run that shares none, say so.

    Where folders of one name are compared, strategy and task stand in it too.
    ``image_mpp`` is taken for images of which no manifest says it; None is what each run was trained with.

    Raises:
        DataError: cases in ``data`` cannot be used.
    """

    @cache
    def cases_at(mpp: float) -> tuple[Case, ...]:
        return read_cases(data, image_mpp=mpp)

    named = Counter(run.folder.name for run in runs)
    for run in runs:
        name = run.folder.name
        name += f"-{run.strategy}-{file_name(run.task)}" if named[name] > 1 else ""
        cases = cases_at(run.image_mpp if image_mpp is None else image_mpp)
        if not {case.key for case in cases} & {score.key for score in run.scores}:
            names = (run.folder, data, run.scores[0].key)
            log.warning("%s: no page of worst cases, %s has none of its images, such as %s", *names)
            continue
        draw_worst(run, cases, count, device=device).save(out / f"worst-{name}.png")


def draw_worst(run: Run, cases: Sequence[Case], count: int, *, device: str = "auto") -> Image.Image:
    """A run's images of lowest Dice, a row each: image, truth in green, its fold's prediction in red."""
    by_key = {case.key: case for case in cases}
    worst = sorted((s for s in run.scores if s.key in by_key), key=lambda s: (s.dice, s.key))[:count]
    spec = load_spec(run.folder)
    samples = load_samples([by_key[s.key] for s in worst], mpp=spec.canvas_mpp, kernel=spec.resample)
    masks = _predicted(run, worst, samples, device=device)
    page = Image.new("RGB", (3 * (TILE + 8) + 8, len(worst) * (TILE + 32) + 8), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for row, (score, sample, predicted_YX) in enumerate(zip(worst, samples, masks, strict=True)):
        top = row * (TILE + 32) + 8
        pen.text((8, top), f"{score.key}   Dice {score.dice:.3f}   image | truth | prediction", INK, font)
        truth = _overlaid(sample.rgb_YX3, sample.mask_YX > 0, TRUTH)
        tiles = (sample.rgb_YX3, truth, _overlaid(sample.rgb_YX3, predicted_YX, PREDICTED))
        for column, tile_YX3 in enumerate(tiles):
            tile = Image.fromarray(tile_YX3)
            tile.thumbnail((TILE, TILE))
            page.paste(tile, (8 + column * (TILE + 8), top + 20))
    return page


def draw_contours(
    images: Sequence[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]],
) -> Image.Image:
    """Name, truth (Y, X) and prediction (Y, X) of some images, side by side: contours on white, no image.

    Truth is green, prediction red, and black where the two run together.
    """
    page = Image.new("RGB", (len(images) * (TILE + 8) + 8, TILE + 40), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for column, (name, truth_YX, predicted_YX) in enumerate(images):
        tile_YX3 = np.full((*truth_YX.shape, 3), 255, np.uint8)
        edges = [_contour(mask_YX) for mask_YX in (truth_YX, predicted_YX)]
        for edge_YX, colour in zip(edges, (TRUTH, PREDICTED), strict=True):
            tile_YX3[edge_YX] = colour
        tile_YX3[edges[0] & edges[1]] = INK
        shrink = TILE / max(truth_YX.shape)
        size = tuple(max(1, round(side * shrink)) for side in truth_YX.shape[::-1])
        left = 8 + column * (TILE + 8)
        page.paste(Image.fromarray(tile_YX3).resize(size, Image.Resampling.BOX), (left, 32))
        pen.rectangle((left - 1, 31, left + size[0], 32 + size[1]), outline=GREY)
        for line, words in enumerate(name.split("   ")):
            pen.text((left, 4 + 13 * line), words[-46:], INK, font)
    return page


def _contour(mask_YX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask within two pixels of its edge."""
    inner_YX: npt.NDArray[np.bool_] = ndimage.binary_erosion(mask_YX, iterations=2, border_value=1)
    return mask_YX & ~inner_YX


def _predicted(
    run: Run, scores: Sequence[Score], samples: Sequence[Sample], *, device: str
) -> Iterator[npt.NDArray[np.bool_]]:
    """Each sample's mask by the fold that was judged on it; a fold's weights are read once."""
    spec, predictors = load_spec(run.folder), dict[str, TorchPredictor]()
    for score, sample in zip(scores, samples, strict=True):
        if score.fold not in predictors:
            network = build_network(spec.encoder, mean=spec.mean, std=spec.std)
            load_fold(network, Path(run.folder) / f"fold-{score.fold}.safetensors")
            predictors[score.fold] = TorchPredictor([network], choose_device(device), batch=1, fp32=False)
        yield predict(predictors[score.fold], sample.rgb_YX3)[0] >= SCORED_AT


def _overlaid(
    rgb_YX3: npt.NDArray[np.uint8], mask_YX: npt.NDArray[np.bool_], colour: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    mixed = (rgb_YX3.astype(np.uint16) + np.array(colour, np.uint16)) // 2
    return np.where(mask_YX[..., None], mixed, rgb_YX3).astype(np.uint8)
