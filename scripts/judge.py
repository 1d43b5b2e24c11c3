"""Judge a bundle: calibration, another scanner, slides, disagreement; then its card.

    python scripts/judge.py adeno-union --data DATA --slides SLIDES.csv --work WORK
    python scripts/judge.py adeno-union --data DATA --slides SLIDES.csv --work OTHER --check

Writes temperature, threshold, ``sure``, smallest areas and the limit for review into ``bundle.json``, the
figures into ``judgement.json``, the section *Judgement* into the card, and two pictures.
``--check`` writes nothing, makes the figures again and says where they differ. Answers and maps
are kept in WORK, so that a judgement that was stopped goes on, and a second one takes seconds;
give a fresh WORK to check for good.

SLIDES.csv lists slides without tumour (path, name, mpp), as for ``wsiseg segment --slide-list``.
``--left-out RUN`` adds the scores of a training with ``wsiseg train --leave-domain-out``, of patches and of
mosaics at the bundle's point; without it those stay that stand in ``judgement.json`` of the same weights, and
``--check`` says that it did not make them.
``--unseen DATA`` makes the mosaics of the images there, judges disagreement on those that no fold has seen,
which flatters nobody, and adds the scores of domains of which no fold has seen any.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.inputs import find_slides
from wsiseg.polygons import threshold_u8
from wsiseg.slide_judgement import each_domain_on_slides, on_slides
from wsiseg.train.bench import Answer, Bench
from wsiseg.train.calibration import fit_temperature
from wsiseg.train.cases import Case, limited, read_cases
from wsiseg.train.disagreement import area_under_curve, auc_interval, curve, draw_curve, review_limit
from wsiseg.train.evaluate import numbers
from wsiseg.train.judgement import differences, read_judgement, section, with_section, write_judgement
from wsiseg.train.metrics import by_domain, named_apart, paired, summary
from wsiseg.train.operating import Point, regions
from wsiseg.train.pictures import draw_contours
from wsiseg.train.records import read_scores, write_text
from wsiseg.train.shift import SHIFTS

Record = dict[str, Any]
DRAWABLE = ("CC0", "CC BY 4.0")
ANY_REGION = Point(0.5, 2000.0, 2000.0)
"""Of which regions disagreement is judged: the bundle's own point leaves too few wrong ones to tell."""
ENOUGH = 30
WORST = 5


def main() -> None:
    """Judge, then write or check."""
    given = options()
    folder = find_bundle(given.bundle)
    spec = load_spec(folder)
    every = read_cases(given.data, image_mpp=given.image_mpp or spec.mpp)
    bench = Bench(folder, spec, limited(every, given.limit), given.work, given.device)
    told("held-out answers")
    held_out = bench.answers(bench.cases)
    calibration = calibrated(held_out)
    spec = spec.model_copy(update={"temperature": calibration["temperature"]})
    told("slides and mosaics")
    free = find_slides([], slide_list=given.slides) if given.slides else []
    if given.unseen:
        others = read_cases(given.unseen, image_mpp=given.image_mpp or spec.mpp)
        wider = dataclasses.replace(bench, cases=limited(others, given.limit))
    else:
        wider = bench
    slides = on_slides(wider, spec, free, given.some)
    spec = spec.model_copy(update=slides["point"])
    told("disagreement")
    disagreement, picture = disagreeing(wider, spec, given.some)
    spec = spec.model_copy(update={"review_above": disagreement["review_above"]})
    told("scanner shifts")
    each: dict[str, Answer] = {}
    for answer in sorted(held_out, key=lambda a: (a.score.dice, a.score.key, a.score.fold)):
        each.setdefault(answer.score.key, answer)  # an image that several folds were judged on is told once
    worst = list(each.values())
    licence = {case.key: case.licence for case in bench.cases}
    drawn = [a for a in worst if licence[a.score.key].startswith(DRAWABLE)][:WORST]
    before = read_judgement(folder, spec) or {}
    record: Record = {
        "format": 1,
        "weights": spec.weights_key,
        "device": bench.predictor.numerics,
        "limits": {"cases a domain": given.limit, "cases a domain for slides and shifts": given.some},
        "held_out": judged(held_out, spec.temperature),
        "left_out": left_out(bench, spec, given.left_out, given.some) | unseen_domains(wider),
        "calibration": calibration,
        "shifts": shifts(bench, given.some),
        "slides": slides,
        "disagreement": disagreement,
        "worst": [
            {
                "key": a.score.key,
                "fold": a.score.fold,
                "dice": a.score.dice,
                "licence": licence[a.score.key],
            }
            for a in worst[:WORST]
        ],
        "worst_drawn": [a.score.key for a in drawn],
    }
    record = finite(record)
    if given.check:
        check(folder, spec, record, given.within)
        return
    record["left_out"] = before.get("left_out", {}) | record["left_out"]
    write_text(folder / "bundle.json", spec.model_dump_json(indent=1) + "\n")
    write_judgement(folder, record)
    picture.save(folder / "disagreement.png")
    if drawn:
        draw_contours(contours(bench, drawn, spec)).save(folder / "worst.png")
    card = folder / "README.md"
    write_text(card, with_section(card.read_text(encoding="utf-8"), section(record)))
    print(section(record))


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", help="a bundle's name or folder")
    parser.add_argument("--data", type=Path, required=True, help="labelled images, as for wsiseg train")
    parser.add_argument("--slides", help="a list of slides without tumour: path, name, mpp")
    parser.add_argument("--work", type=Path, required=True, help="where answers and maps are kept")
    parser.add_argument("--left-out", type=Path, nargs="*", default=[], help="runs that left domains out")
    parser.add_argument("--unseen", type=Path, help="labelled images, some of which no fold has seen")
    parser.add_argument("--limit", type=int, help="use only so many cases of each domain")
    parser.add_argument(
        "--some", type=int, default=40, help="cases a domain for slides, shifts, disagreement"
    )
    parser.add_argument("--image-mpp", type=float, help="microns per pixel of images without a manifest")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--check", action="store_true", help="write nothing; say where the figures differ")
    parser.add_argument("--within", type=float, default=0.005, help="how far a figure may differ")
    return parser.parse_args()


def told(what: str) -> None:
    """Say what is being done."""
    print(f"judge: {what}", file=sys.stderr, flush=True)


def finite(record: Any) -> Any:
    """A record with None for every figure that is no number, as JSON has none for that."""
    if isinstance(record, dict):
        return {name: finite(value) for name, value in record.items()}
    if isinstance(record, list):
        return [finite(value) for value in record]
    return None if isinstance(record, float) and not np.isfinite(record) else record


def judged(answers: Sequence[Answer], temperature: float) -> Record:
    """Dice and calibration error of answers: of all, of each domain, of each fold."""

    def part(chosen: Sequence[Answer]) -> Record:
        counted = reduce(add, (a.logits for a in chosen)).at(temperature)
        return numbers([a.score for a in chosen], counted)

    domains, folds = (sorted({getattr(a.score, kind) for a in answers}) for kind in ("domain", "fold"))
    return {
        **part(answers),
        "domains": {d: part([a for a in answers if a.score.domain == d]) for d in domains},
        "folds": {f: part([a for a in answers if a.score.fold == f]) for f in folds},
    }


def calibrated(answers: Sequence[Answer]) -> Record:
    """The temperature, and the calibration error before and after it."""
    total = reduce(add, (a.logits for a in answers))
    temperature = fit_temperature([total])
    crossed = []
    for fold in sorted({a.score.fold for a in answers}):
        own = [a.logits for a in answers if a.score.fold == fold]
        others = [a.logits for a in answers if a.score.fold != fold] or own
        crossed.append(reduce(add, own).at(fit_temperature(others)))
    return {
        "temperature": temperature,
        "pixels": int(total.pixels_CN.sum()),
        "ece_before": total.at(1).ece,
        "ece_after": total.at(temperature).ece,
        "ece_after_crossed": reduce(add, crossed).ece,
    }


def shifts(bench: Bench, some: int) -> Record:
    """Dice of some held-out answers, and how far it falls when the images are changed."""
    cases = limited(tuple(case for case in bench.cases if bench.unseen[case.key]), some)
    plain = [a.score for a in bench.answers(cases)]
    found: Record = {"n": len(plain), "dice_mean": summary(plain).dice_mean, "by_shift": {}}
    for name in SHIFTS:
        told(f"  {name}")
        after = [a.score for a in bench.answers(cases, shift=name)]
        _, drop, low, high = paired(*(named_apart(part) for part in (plain, after)))
        numbers_of = {"dice_mean": summary(after).dice_mean, "drop": drop, "drop_low": low, "drop_high": high}
        found["by_shift"][name] = numbers_of
    return found


def left_out(bench: Bench, spec: BundleSpec, runs: Sequence[Path], some: int) -> Record:
    """The scores of domains that trainings left out, as patches, and as mosaics at the bundle's point."""
    names = ["temperature", *(field.name for field in dataclasses.fields(Point))]
    found: Record = {}
    for run in runs:
        its = load_spec(run).model_copy(update={name: getattr(spec, name) for name in names})
        mosaics = each_domain_on_slides(dataclasses.replace(bench, folder=run, spec=its), its, some)
        for domain, scores in by_domain(read_scores(run)).items():
            found[domain] = {**dataclasses.asdict(scores), "mosaics": mosaics.get(domain)}
    return found


def unseen_domains(bench: Bench) -> Record:
    """The scores of domains of which no fold has learnt from any patient, each fold by itself."""
    folds = len(bench.spec.fold_names)
    learnt = {case.domain for case in bench.cases if len(bench.unseen[case.key]) < folds}
    answers = bench.answers([case for case in bench.cases if case.domain not in learnt])
    scores = by_domain(named_apart([answer.score for answer in answers]))
    return {
        domain: {**dataclasses.asdict(found), "n": found.n // folds, "networks": folds}
        for domain, found in scores.items()
    }


def disagreeing(bench: Bench, spec: BundleSpec, some: int) -> tuple[Record, Any]:
    """Error against disagreement, of regions and pixels at ``ANY_REGION``; and the curve as a picture.

    The images are those that no fold has seen where there are enough of them; else those
    that at least one has not.
    """
    names, spec = spec.fold_names, spec.model_copy(update=dataclasses.asdict(ANY_REGION))
    fresh = tuple(case for case in bench.cases if len(bench.unseen[case.key]) == len(names))
    of = "that no fold had seen"
    if len(fresh) < ENOUGH:
        fresh = tuple(case for case in bench.cases if bench.unseen[case.key])
        of = "that one of the folds had not seen (the others had, so their agreement flatters them)"
    cases = limited(fresh, some)
    found = [
        evidence(case, map_CYX, truth_YX, spec)
        for case, map_CYX, truth_YX in bench.maps(
            cases, {case.key: names for case in cases}, temperature=spec.temperature
        )
    ]
    spread_N, wrong_N = (np.concatenate([one[i] for one in found]) for i in (0, 1))
    groups = ["/".join(case.group) for case, one in zip(cases, found, strict=True) for _ in one[0]]
    pixels = np.stack([one[2] for one in found])  # (image, right and wrong, level of disagreement)
    level = np.tile(np.arange(256) / 255, 2 * len(cases))
    is_wrong = np.tile(np.repeat([False, True], 256), len(cases))
    image = ["/".join(case.group) for case in cases for _ in range(512)]
    weight = pixels.reshape(-1).astype(np.float64)
    low, high = auc_interval(spread_N, wrong_N, groups) if groups else (float("nan"),) * 2
    limit = review_limit(spread_N, wrong_N, groups) if groups else None
    steps = curve(spread_N, wrong_N)
    above_N = spread_N > (0.5 if limit is None else limit)
    pixel_low, pixel_high = auc_interval(level, is_wrong, image, weight)
    record: Record = {
        "images": len(cases),
        "of": of,
        "at": dataclasses.asdict(ANY_REGION),
        "regions": len(spread_N),
        "wrong": float(wrong_N.mean()) if len(wrong_N) else 0.0,
        "auc": area_under_curve(spread_N, wrong_N),
        "auc_low": low,
        "auc_high": high,
        "pixel_auc": area_under_curve(level, is_wrong, weight),
        "pixel_auc_low": pixel_low,
        "pixel_auc_high": pixel_high,
        "review_above": limit,
        "flagged": float(above_N.mean()) if len(above_N) else 0.0,
        "wrong_flagged": float(above_N[wrong_N].mean()) if wrong_N.any() else 0.0,
        "curve": [dataclasses.asdict(step) for step in steps],
    }
    return record, draw_curve(steps, f"{spec.name}: share of regions that are wrong", limit)


def evidence(case: Case, map_CYX: Any, truth_YX: Any, spec: BundleSpec) -> tuple[Any, Any, Any]:
    """One image's regions (disagreement, whether wrong), and its pixels by error and disagreement."""
    del case
    found_YX = map_CYX[0] >= threshold_u8(spec.threshold)
    px_um2 = spec.canvas_mpp**2
    label_YX, count = regions(
        found_YX, min_area_px=spec.min_area_um2 / px_um2, min_hole_px=spec.min_hole_um2 / px_um2
    )
    label_YX = np.where(found_YX, label_YX, 0)
    index = np.arange(1, count + 1)
    spread_N = np.atleast_1d(ndimage.mean(map_CYX[1], label_YX, index)) / 255 if count else np.empty(0)
    right_N = np.atleast_1d(ndimage.mean(truth_YX, label_YX, index)) if count else np.empty(0)
    wrong_YX = found_YX != truth_YX
    pixels = np.bincount(map_CYX[1].ravel() + 256 * wrong_YX.ravel(), minlength=512).reshape(2, 256)
    return spread_N, right_N < 0.5, pixels  # noqa: PLR2004 - half


def contours(bench: Bench, answers: Sequence[Answer], spec: BundleSpec) -> list[tuple[str, Any, Any]]:
    """Name, truth and prediction of some answers' images."""
    by_key = {case.key: case for case in bench.cases}
    found = []
    for answer in answers:
        case, fold = by_key[answer.score.key], answer.score.fold
        ((_, map_CYX, truth_YX),) = bench.maps([case], {case.key: [fold]}, temperature=spec.temperature)
        found.append(
            (f"{case.key}   Dice {answer.score.dice:.3f}", truth_YX, map_CYX[0] >= threshold_u8(0.5))
        )
    return found


def check(folder: Path, spec: BundleSpec, record: Record, within: float) -> None:
    """Hold what was found against what is kept; exit with 1 where they differ."""
    kept = read_judgement(folder, spec)
    if kept is None:
        sys.exit(f"{folder} was not judged with these weights: leave --check out first")
    others = {name: found for name, found in kept["left_out"].items() if name not in record["left_out"]}
    wrong = differences(kept, {**record, "left_out": others | record["left_out"]}, within=within)
    point = Point(**record["slides"]["point"])
    advised = load_spec(folder)
    for name, value in {**dataclasses.asdict(point), "temperature": spec.temperature}.items():
        if getattr(advised, name) != value:
            wrong.append(f"bundle.json: {name} is {getattr(advised, name)}, {value} was found")
    if others:
        print(f"not made again without --left-out or --unseen: the scores of {', '.join(others)} left out")
    rest = "every other figure" if others else "every figure"
    print("\n".join(wrong) or f"{rest} of {spec.name} was found again to within {within:g}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
