"""What two networks find together on tissue that one of them knows nothing like.

    python scripts/second_opinion.py adeno-union --left-out RUN --data DATA --work WORK

An outline is drawn by five networks together, and on tissue from elsewhere they are less sure together
than each is. A labelled image has been seen by all of a bundle's folds but one, so mosaics (see
``scripts/judge.py``) are judged by one network, which flatters. Here by the mean of two: the fold that
never saw the patient, and the network of a training with ``wsiseg train --leave-domain-out`` (RUN) that
never saw the domain. RUN is of the bundle's own recipe. Printed for each domain that RUN left out: Dice
on mosaics of the images with tumour, at 0.5 with nothing dropped and at the bundle's point, and what is
called tumour at that point of images without any. Maps are kept in WORK.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.slide_judgement import PLAIN, each_domain_on_slides
from wsiseg.train.bench import Bench
from wsiseg.train.cases import Case, read_cases
from wsiseg.train.evaluate import unseen_by
from wsiseg.train.records import read_learnt, write_learnt, write_text


def main() -> None:
    """A row for each domain that was left out, and their mean."""
    given = options()
    folder, run = find_bundle(given.bundle), find_bundle(str(given.left_out))
    spec, strangers = load_spec(folder), load_spec(run)
    cases = read_cases(given.data, image_mpp=spec.mpp)
    print("| domain | images with tumour | at 0.5 | at its point | called tumour of those without |")
    print("|---|---|---|---|---|")
    rows = []
    for stranger in strangers.fold_names:
        found: list[tuple[int, float, float, float | None]] = []
        for fold in spec.fold_names:
            pair = paired(folder, run, (fold, stranger), given.work / f"{fold}-and-{stranger}")
            new = unseen_by(pair, load_spec(pair), cases)
            its = tuple(c for c in cases if c.domain == stranger and new[c.key] == (fold, stranger))
            if not all(case.empty for case in its):
                found.append(judged(pair, its, given))
        if not found:
            sys.exit(f"{given.data} has no image with tumour of {stranger} that a fold has not seen")
        rows.append(pooled(found))
        print(told(stranger, rows[-1]), flush=True)
    print(
        told("mean of domains", (sum(row[0] for row in rows), *np.mean([r[1:3] for r in rows], axis=0), None))
    )


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", help="a bundle's name or folder")
    parser.add_argument("--left-out", type=Path, required=True, help="the training that left domains out")
    parser.add_argument("--data", type=Path, required=True, help="labelled images, as for wsiseg train")
    parser.add_argument("--work", type=Path, required=True, help="where maps are kept")
    parser.add_argument("--some", type=int, default=40, help="images a domain and fold")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def paired(folder: Path, run: Path, names: tuple[str, str], out: Path) -> Path:
    """A bundle of two networks, the one's fold and the other's, that is otherwise the first's."""
    spec, folds, learnt = load_spec(folder), [], {}
    out.mkdir(parents=True, exist_ok=True)
    for source, name in zip((folder, run), names, strict=True):
        its, known = load_spec(source), read_learnt(source)
        if known is None or name not in known:
            sys.exit(f"{source} does not say what fold {name} has learnt from: pass what wsiseg train wrote")
        fold = its.folds[its.fold_names.index(name)]
        shutil.copyfile(source / fold.file, out / fold.file)
        folds.append(fold)
        learnt[name] = [(group,) for group in known[name]]
    write_text(out / "bundle.json", spec.model_copy(update={"folds": tuple(folds)}).model_dump_json() + "\n")
    write_learnt(out, learnt)
    return out


def judged(
    pair: Path, cases: tuple[Case, ...], given: argparse.Namespace
) -> tuple[int, float, float, float | None]:
    """How many images with tumour, their Dice at 0.5 and at the point, and the false fraction there."""
    spec = load_spec(pair)
    plain = spec.model_copy(
        update={"threshold": PLAIN.threshold, "min_area_um2": 0.0, "min_hole_um2": 0.0, "sure": 0.0}
    )

    def at(which: BundleSpec) -> dict[str, float | None]:
        bench = Bench(pair, which, cases, given.work / "maps", given.device)
        return each_domain_on_slides(bench, which, given.some)[cases[0].domain]

    whole, found = at(plain), at(spec)
    return int(found["tiles"] or 0), float(whole["dice"] or 0), float(found["dice"] or 0), found["false"]


def pooled(found: list[tuple[int, float, float, float | None]]) -> tuple[int, float, float, float | None]:
    """All folds together: Dice of every image, and the mean of the folds' false fractions."""
    tiles = [part[0] for part in found]
    false = [part[3] for part in found if part[3] is not None]
    whole, at_point = (float(np.average([part[i] for part in found], weights=tiles)) for i in (1, 2))
    return sum(tiles), whole, at_point, float(np.mean(false)) if false else None


def told(name: str, row: tuple[int, float, float, float | None]) -> str:
    """A row of the table."""
    false = "" if row[3] is None else f"{row[3]:.2%}"
    return f"| {name} | {row[0]} | {row[1]:.3f} | {row[2]:.3f} | {false} |"


if __name__ == "__main__":
    main()
