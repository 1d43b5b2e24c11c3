"""A bundle judged on slides: tumour-free ones, and mosaics of patches that its weights never saw.

The pipeline runs as for any slide, once; threshold and smallest areas are then tried on the
stored maps (see ``wsiseg.train.operating`` for the rule).
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsiseg.bundle import BundleSpec, load_spec
from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import SlideError
from wsiseg.geometry import Box
from wsiseg.manifest import SlideManifest
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.place import MANIFEST, MAP
from wsiseg.polygons import threshold_u8
from wsiseg.recipes import EnsembleRecipe
from wsiseg.reoutline import reoutline
from wsiseg.run import Batch, SlideInput
from wsiseg.train.bench import Bench
from wsiseg.train.cases import Case, limited
from wsiseg.train.metrics import Score, score
from wsiseg.train.mosaic import Mosaic, compose
from wsiseg.train.operating import Found, Point, choose, count_over, grid

__all__ = ["each_domain_on_slides", "on_slides"]

Record = dict[str, Any]
ENSEMBLE = "ensemble"
FREE_DOMAINS = ("colon_glas",)
"""Benign images of these domains count as tissue without tumour when a threshold is chosen."""
PLAIN = Point(0.5, 0.0, 0.0)


def on_slides(bench: Bench, spec: BundleSpec, slides: Sequence[SlideInput], some: int) -> Record:
    """Run the pipeline over mosaics and tumour-free slides; choose the point; say what it gives.

    ``some`` cases with and as many without tumour are taken of each domain.

    Raises:
        SlideError: a slide cannot be segmented.
    """
    return _chosen(bench, spec, *_segmented(bench, spec, slides, some))


def each_domain_on_slides(bench: Bench, spec: BundleSpec, some: int) -> dict[str, Record]:
    """Of each domain, Dice on mosaics with tumour and what is called tumour without, at the bundle's point.

    That point is one of the grid. ``tiles`` images with tumour of each domain are judged; ``false`` is a
    fraction of tissue, None where the domain has no image without tumour.

    Raises:
        SlideError: a mosaic cannot be segmented.
    """
    free, tumour = _segmented(bench, spec, [], some)
    at = list(grid()).index(Point(**{field.name: getattr(spec, field.name) for field in fields(Point)}))
    dice: dict[str, list[float]] = {}
    for folder, mosaic in tumour:
        tiles_T3 = _counted(folder, mosaic, spec)["tiles"][at]
        dice.setdefault(mosaic.tiles[0].case.domain, []).extend(_dice(*map(int, c)) for c in tiles_T3)
    false = {
        domain: _fractions([_counted(folder, None, spec) for folder in free[name]])[at]
        for domain in dice
        if (name := _benign(domain)) in free
    }
    return {
        domain: {"tiles": len(found), "dice": float(np.mean(found)), "false": false.get(domain)}
        for domain, found in dice.items()
    }


def _benign(domain: str) -> str:
    """The name of a domain's mosaics without tumour, as tissue without tumour."""
    return f"{domain} (benign, mosaics)"


def _segmented(
    bench: Bench, spec: BundleSpec, slides: Sequence[SlideInput], some: int
) -> tuple[dict[str, list[Path]], list[tuple[Path, Mosaic]]]:
    """The finished folders of what has no tumour, by name, and of the mosaics that have some."""
    groups = _grouped(bench, spec, some)
    named = {name: [case.key for case in cases] for name, cases in sorted(groups.items())}
    digest = hashlib.sha256(repr(named).encode()).hexdigest()[:8]
    root = bench.work / spec.weights_key[:12] / f"slides-{spec.temperature:g}-{digest}"
    free: dict[str, list[Path]] = {}
    tumour: list[tuple[Path, Mosaic]] = []
    wanted: dict[str, list[SlideInput]] = {ENSEMBLE: list(slides)}
    for (domain, judge, empty, number), cases in sorted(groups.items()):
        name = f"{domain}-{'benign' if empty else 'tumour'}-{judge}-{number}"
        mosaic = compose(cases)
        slide = SlideInput(_written(mosaic, root / "mosaics" / f"{name}.tif"), name, mosaic.mpp)
        wanted.setdefault(judge, []).append(slide)
        if empty:
            free.setdefault(_benign(domain), []).append(root / judge / name)
        else:
            tumour.append((root / judge / name, replace(mosaic, rgb_YX3=mosaic.rgb_YX3[:0])))
    free |= {slide.name: [root / ENSEMBLE / slide.name] for slide in slides}
    for judge, its in wanted.items():
        _segment(bench, spec, judge, its, root)
    return free, tumour


def _written(mosaic: Mosaic, path: Path) -> Path:
    """The mosaic as a tiled TIFF without loss, which OpenSlide reads."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        tifffile.imwrite(partial, mosaic.rgb_YX3, tile=(256, 256), photometric="rgb", compression="zlib")
        partial.replace(path)
    return path


def _grouped(bench: Bench, spec: BundleSpec, some: int) -> dict[tuple[str, str, bool, int], list[Case]]:
    """Which cases make a mosaic: one domain, with or without tumour, judged by the same weights.

    An image is judged by the whole ensemble where no fold has seen its patient, else by the
    first fold that has not.
    """
    names = spec.fold_names
    groups: dict[tuple[str, str, bool, int], list[Case]] = {}
    unseen = [case for case in bench.cases if bench.unseen[case.key]]
    for empty in (False, True):
        for case in limited(tuple(c for c in unseen if c.empty == empty), some):
            folds = bench.unseen[case.key]
            judge = ENSEMBLE if len(folds) == len(names) else folds[0]
            scales = sorted({c.mpp for c in unseen if c.domain == case.domain})
            groups.setdefault((case.domain, judge, empty, scales.index(case.mpp) + 1), []).append(case)
    return groups


def _segment(bench: Bench, spec: BundleSpec, judge: str, slides: Sequence[SlideInput], root: Path) -> None:
    """Make the folders of the slides under some weights that are not there yet."""
    out = root / judge
    missing = [slide for slide in slides if not (out / slide.name / MANIFEST).is_file()]
    if not missing:
        return
    bundle = _one_bundle(bench, spec, judge, root)
    options = MapOptions(device=bench.device)
    recipe = EnsembleRecipe(bundle, options.device, options.batch, options.fp32, None, options.engine)
    batch = Batch(out, options, PolygonOptions(), model=(load_spec(bundle), recipe))
    for outcome in batch.run(missing, lambda *_: None):
        if outcome.manifest is None:
            msg = f"{outcome.slide.path}: {outcome.reason}"
            raise SlideError(msg)


def _one_bundle(bench: Bench, spec: BundleSpec, judge: str, root: Path) -> Path:
    """The bundle with the temperature in it, or one of its folds as a bundle of its own."""
    folder = root / "bundles" / judge
    folds = [f for f, name in zip(spec.folds, spec.fold_names, strict=True) if judge in {ENSEMBLE, name}]
    folder.mkdir(parents=True, exist_ok=True)
    for fold in folds:
        if not (folder / fold.file).is_file():
            shutil.copyfile(bench.folder / fold.file, folder / fold.file)
    sub = spec.model_copy(update={"folds": tuple(folds)})
    (folder / "bundle.json").write_text(sub.model_dump_json(), encoding="utf-8")
    return folder


def _counted(folder: Path, mosaic: Mosaic | None, spec: BundleSpec) -> Record:
    """A finished slide's counts over the grid, kept beside it; see ``count_over``."""
    manifest = SlideManifest.read(folder / MANIFEST)
    about: Record = {"tissue_mm2": manifest.result.tissue_mm2, "px_mm2": manifest.canvas.mpp**2 / 1e6}
    kept = folder.with_name(f"{folder.name}.grid.npz")
    size, factor = (manifest.canvas.height, manifest.canvas.width), manifest.canvas.factor
    points = json.dumps([astuple(p) for p in grid()])
    if kept.is_file():
        with np.load(kept) as found:
            if str(found["points"]) == points:
                return {**about, "tiles": found["tiles"], "whole": found["whole"]}
    prob_YX = ProbabilityMap.open(folder / MAP).read(Box(0, 0, size[1], size[0]))[0]
    truth_YX = np.zeros(size, np.bool_) if mosaic is None else mosaic.truth(size, factor, spec.resample)
    tiles = [] if mosaic is None else [tile.on_canvas(factor) for tile in mosaic.tiles]
    per_tile, whole = count_over(prob_YX, truth_YX, tiles, mpp=manifest.canvas.mpp)
    np.savez(kept, points=points, tiles=per_tile, whole=whole)
    return {**about, "tiles": per_tile, "whole": whole}


def _chosen(
    bench: Bench, spec: BundleSpec, free: dict[str, list[Path]], tumour: Sequence[tuple[Path, Mosaic]]
) -> Record:
    """The point that the rule takes, and what stands behind it."""
    points = list(grid())
    empty = {name: [_counted(folder, None, spec) for folder in folders] for name, folders in free.items()}
    fraction = {name: _fractions(parts) for name, parts in empty.items()}
    counts_PT3 = np.concatenate([_counted(f, m, spec)["tiles"] for f, m in tumour], axis=1)
    dice_P = [float(np.mean([_dice(*map(int, c)) for c in tiles_T3])) for tiles_T3 in counts_PT3]
    ruled = [n for n in fraction if "(benign" not in n or n.startswith(FREE_DOMAINS)]
    found = [
        Found(point, dice_P[i], {name: fraction[name][i] for name in ruled}) for i, point in enumerate(points)
    ]
    patch_dice = _as_patches(bench, spec, [tile.case for _, m in tumour for tile in m.tiles])
    best, met = choose(found, patch_dice)
    at, plain = points.index(best.point), points.index(PLAIN)
    how = {
        "threshold": best.point.threshold,
        "min_area": best.point.min_area_um2,
        "min_hole": best.point.min_hole_um2,
        "sure": best.point.sure,
    }
    told = {}
    for name, folders in free.items():
        manifests = [reoutline(folder, how) for folder in folders]
        tissue = sum(m.result.tissue_mm2 or 0.0 for m in manifests)
        exported = sum(m.result.tumor_mm2 for m in manifests) / tissue if tissue else 0.0
        told[name] = {
            "tissue_mm2": tissue,
            "fraction": exported,
            "fraction_on_grid": fraction[name][at],
            "fraction_before": fraction[name][plain],
            "in_rule": name in ruled,
        }
    return {
        "point": asdict(best.point),
        "met": met,
        "dice": best.dice,
        "patch_dice": patch_dice,
        "dice_plain": dice_P[plain],
        "tiles": int(counts_PT3.shape[1]),
        "false": told,
    }


def _fractions(parts: Sequence[Record]) -> list[float]:
    """Tumour over tissue of some slides together, at every point of the grid."""
    tissue = sum(part["tissue_mm2"] or 0.0 for part in parts)
    tumour_P = sum(part["whole"] * part["px_mm2"] for part in parts)
    return [float(area / tissue) if tissue else 0.0 for area in np.asarray(tumour_P)]


def _as_patches(bench: Bench, spec: BundleSpec, cases: Sequence[Case]) -> float:
    """Mean Dice at 0.5 of the same images as patches, each by the weights that judged its mosaic."""
    names = spec.fold_names
    folds = {c.key: u if len(u := bench.unseen[c.key]) == len(names) else u[:1] for c in cases}
    found = []
    for _, map_CYX, truth_YX in bench.maps(cases, folds, temperature=spec.temperature):
        found.append(_dice(*score(map_CYX[0] >= threshold_u8(PLAIN.threshold), truth_YX)))
    return float(np.mean(found))


def _dice(tp: int, fp: int, fn: int) -> float:
    return Score("", "", "", "", tp, fp, fn).dice
