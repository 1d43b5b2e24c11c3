"""A bundle's answers to labelled images, kept in a folder, so that a judgement can be taken up again.

Every answer is a file of its own, named by the weights, the image and what was asked: whatever
stops a judgement, the next one begins where it ended.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from wsiseg.bundle import BundleSpec
from wsiseg.ensemble import TorchPredictor, load_ensemble
from wsiseg.train.calibration import LogitCounts
from wsiseg.train.cases import Case
from wsiseg.train.data import load_samples
from wsiseg.train.evaluate import some_folds, unseen_by
from wsiseg.train.loop import predict
from wsiseg.train.metrics import Score, score
from wsiseg.train.shift import shifted

__all__ = ["Answer", "Bench"]

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one fold says to an image it never saw: its score at 0.5, and its logits, no temperature yet."""

    score: Score
    logits: LogitCounts


@dataclass(frozen=True)
class Bench:
    """A bundle beside the cases to judge it by; ``work`` is where the answers are kept."""

    folder: Path
    spec: BundleSpec
    cases: tuple[Case, ...]
    work: Path
    device: str = "auto"

    @cached_property
    def unseen(self) -> dict[str, tuple[str, ...]]:
        """The folds, by each case's key, that never saw its patient."""
        return unseen_by(self.folder, self.spec, self.cases)

    @cached_property
    def predictor(self) -> TorchPredictor:
        """All folds, without a temperature."""
        return some_folds(load_ensemble(self.folder, device=self.device), self._numbers(), temperature=1.0)

    def answers(self, cases: Sequence[Case], *, shift: str | None = None) -> list[Answer]:
        """What the folds that never saw them say to some cases, one answer for each such fold."""

        def ask(pair: tuple[Case, str]) -> Answer:
            case, fold = pair
            found = self._kept(f"answer-{shift or 'plain'}", case, fold, lambda: self._ask(case, fold, shift))
            tp, fp, fn = map(int, found["counts"])
            marked = Score(case.key, case.task, case.domain, fold, tp, fp, fn, "/".join(case.group))
            return Answer(marked, LogitCounts(found["logits"].astype(np.int64)))

        pairs = [(case, fold) for case in cases for fold in self.unseen[case.key]]
        return list(self._each(ask, pairs))

    def maps(
        self, cases: Sequence[Case], folds: Mapping[str, Sequence[str]], *, temperature: float
    ) -> Iterator[tuple[Case, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]:
        """Mean and disagreement (2, Y, X; × 255) of each case's ``folds``, and its truth (Y, X)."""

        def ask(case: Case) -> tuple[Case, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
            chosen = tuple(folds[case.key])
            found = self._kept(
                f"map-{temperature:g}", case, "+".join(chosen), lambda: self._map(case, chosen, temperature)
            )
            return case, found["map"], found["truth"]

        yield from self._each(ask, list(cases))

    def _ask(self, case: Case, fold: str, shift: str | None) -> Arrays:
        rgb_YX3, truth_YX = self._read(case)
        rgb_YX3 = shifted(rgb_YX3, shift, case.key) if shift else rgb_YX3
        prob_YX = predict(some_folds(self.predictor, self._numbers([fold])), rgb_YX3)[0]
        counts = np.array(score(prob_YX >= 0.5, truth_YX))  # noqa: PLR2004 - a temperature leaves it alone
        return {"counts": counts, "logits": LogitCounts.of(prob_YX, truth_YX).pixels_CN.astype(np.int32)}

    def _map(self, case: Case, folds: Sequence[str], temperature: float) -> Arrays:
        rgb_YX3, truth_YX = self._read(case)
        chosen = some_folds(self.predictor, self._numbers(folds), temperature=temperature)
        prob_FYX = predict(chosen, rgb_YX3)
        both = np.stack([prob_FYX.mean(axis=0), prob_FYX.std(axis=0)])
        return {"map": np.floor(both * 255 + 0.5).astype(np.uint8), "truth": truth_YX}

    def _read(self, case: Case) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        (sample,) = load_samples([case], mpp=self.spec.canvas_mpp, kernel=self.spec.resample)
        return sample.rgb_YX3, sample.mask_YX > 0

    def _numbers(self, folds: Sequence[str] | None = None) -> list[int]:
        names = self.spec.fold_names
        return [names.index(fold) for fold in (names if folds is None else folds)]

    def _each(self, ask: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Ask for each, in order, as many at once as the processor has cores (a GPU: one)."""
        with ThreadPoolExecutor(self.predictor.at_once) as pool:
            for start in range(0, len(items), 64):
                yield from pool.map(ask, items[start : start + 64])

    def _kept(self, stage: str, case: Case, who: str, make: Callable[[], Arrays]) -> Arrays:
        """An answer from its file, or made and filed."""
        name = hashlib.sha256(f"{case.key}/{who}".encode()).hexdigest()[:24]
        path = self.work / self.spec.weights_key[:12] / stage / f"{name}.npz"
        if path.is_file():
            try:
                with path.open("rb") as file, np.load(file) as found:
                    return dict(found)
            except (OSError, ValueError, BadZipFile, EOFError):
                path.unlink()  # cut short: it is made again
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **made)  # type: ignore[arg-type]
        partial.replace(path)
        return made
