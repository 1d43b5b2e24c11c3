"""What two networks find together on tissue that one of them knows nothing like.

    python scripts/second_opinion.py adeno-union --left-out RUN --data DATA --work WORK

An outline is drawn by five networks together, which where they disagree are less sure than the surest of
them. A labelled image has been seen by all of a bundle's folds but one, so mosaics (see
``scripts/judge.py``) are judged by one network, which flatters. Here by the mean of two: the fold that
never saw the patient, and the network of a training with ``wsiseg train --leave-domain-out`` (RUN) that
never saw the domain. RUN is of the bundle's own recipe. Printed for each domain that RUN left out: Dice
on mosaics of the images with tumour, at 0.5 with nothing dropped and at the bundle's point, and what is
called tumour at that point of images without any. Maps are kept in WORK.
"""

import argparse
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wsiseg.bundle import find_bundle, load_spec
from wsiseg.slide_judgement import PLAIN, each_domain_on_slides
from wsiseg.train.bench import Bench
from wsiseg.train.cases import Case, read_cases
from wsiseg.train.records import read_learnt, write_learnt, write_text


@dataclass(frozen=True)
class Row:
    """Dice of so many images with tumour, and what is called tumour of those without, if there are any."""

    images: int
    at_half: float
    at_point: float
    false: float | None = None

    def told(self, name: str) -> str:
        """A row of the table."""
        false = "" if self.false is None else f"{self.false:.2%}"
        return f"| {name} | {self.images} | {self.at_half:.3f} | {self.at_point:.3f} | {false} |"


def main() -> None:
    """A row for each domain that was left out, and their mean."""
    given = options()
    folder, run = find_bundle(given.bundle), find_bundle(str(given.left_out))
    spec = load_spec(folder)
    cases = read_cases(given.data, image_mpp=spec.mpp)
    print("| domain | images with tumour | at 0.5 | at its point | called tumour of those without |")
    print("|---|---|---|---|---|")
    rows = []
    for stranger in load_spec(run).fold_names:
        its = tuple(case for case in cases if case.domain == stranger)
        found = [
            row for fold in spec.fold_names if (row := judged(folder, run, (fold, stranger), its, given))
        ]
        if not found:
            sys.exit(f"{given.data} has no image with tumour of {stranger} that a fold has not seen")
        rows.append(pooled(found))
        print(rows[-1].told(stranger), flush=True)
    half, point = np.mean([(row.at_half, row.at_point) for row in rows], axis=0)
    print(Row(sum(row.images for row in rows), half, point).told("mean of domains"))


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


def judged(
    folder: Path, run: Path, names: tuple[str, str], cases: tuple[Case, ...], given: argparse.Namespace
) -> Row | None:
    """What two find in the images of a domain that neither has seen; None where none of them has tumour."""
    pair = paired(folder, run, names, given.work / "-and-".join(names))
    spec = load_spec(pair)
    bench = Bench(pair, spec, cases, given.work / "maps", given.device)
    new = tuple(case for case in cases if bench.unseen[case.key] == names)
    if all(case.empty for case in new):
        return None
    whole, found = (
        each_domain_on_slides(replace(bench, spec=its, cases=new), its, given.some)[new[0].domain]
        for its in (spec.model_copy(update=asdict(PLAIN)), spec)
    )
    return Row(found["tiles"], whole["dice"], found["dice"], found["false"])


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


def pooled(found: list[Row]) -> Row:
    """All folds together: Dice of every image, and the mean of the folds' false fractions."""
    images = [row.images for row in found]
    half, point = np.average([(row.at_half, row.at_point) for row in found], axis=0, weights=images)
    false = [row.false for row in found if row.false is not None]
    return Row(sum(images), half, point, float(np.mean(false)) if false else None)


if __name__ == "__main__":
    main()
