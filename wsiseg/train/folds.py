"""Which cases train and which validate: a pure function of the cases, K and the seed.

Cases are dealt to K folds by group (a patient is never split, not even over two tasks),
so that every stratum (task, domain, mask empty or not) is spread as evenly as its groups
allow. All tasks are dealt at once and the strategy is not asked: every strategy validates
on the same cases, and weights of one task's fold have seen no patient of another task's
same fold.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wsiseg.errors import DataError
from wsiseg.train.cases import Case

__all__ = ["Fold", "deal", "folds_of", "joined", "leave_domain_out"]

log = logging.getLogger(__name__)

Group = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Fold:
    """One training: its name, the cases it learns from and those it is judged by."""

    name: str
    train: tuple[Case, ...]
    valid: tuple[Case, ...]

    def __post_init__(self) -> None:
        shared = {case.group for case in self.train} & {case.group for case in self.valid}
        assert not shared, f"groups in both halves of fold {self.name}: {sorted(shared)[:3]}"


def deal(cases: Sequence[Case], folds: int, *, seed: int) -> dict[str, int]:
    """The fold (0 … folds-1) of every case, by its key.

    Groups are dealt largest first (ties in an order that the seed shuffles), each to the fold
    that then holds the least of the group's strata, counted in shares of each stratum.

    Raises:
        DataError: a task has fewer groups than there are folds.
    """
    _enough_groups(cases, folds)
    strata = Counter((case.task, case.domain, case.empty) for case in cases)
    groups: dict[Group, Counter[tuple[str, str, bool]]] = {}
    for case in cases:
        groups.setdefault(case.group, Counter())[case.task, case.domain, case.empty] += 1

    def order(group: Group) -> tuple[int, str]:
        return -groups[group].total(), hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()

    held = [Counter[tuple[str, str, bool]]() for _ in range(folds)]
    place: dict[Group, int] = {}
    for group in sorted(groups, key=order):
        own = groups[group]

        def load(fold: int, own: Counter[tuple[str, str, bool]] = own) -> tuple[float, int, int]:
            share = sum(held[fold][s] * own[s] / strata[s] for s in own)
            return share, held[fold].total(), fold

        place[group] = min(range(folds), key=load)
        held[place[group]].update(own)
    return {case.key: place[case.group] for case in cases}


def folds_of(cases: Sequence[Case], task: str, folds: int, *, seed: int) -> tuple[Fold, ...]:
    """The K folds of one task; ``cases`` are those of every task in the data folder.

    A domain with fewer patients than K is in the validation part of some folds only.
    """
    place = deal(cases, folds, seed=seed)
    own = [case for case in cases if case.task == task]
    _warn_unknown(own)
    return tuple(
        Fold(
            str(k + 1),
            tuple(case for case in own if place[case.key] != k),
            tuple(case for case in own if place[case.key] == k),
        )
        for k in range(folds)
    )


def leave_domain_out(cases: Sequence[Case], task: str) -> tuple[Fold, ...]:
    """One fold for each domain of a task: trained on the others, judged on that one.

    Raises:
        DataError: the task has one domain only.
    """
    own = [case for case in cases if case.task == task]
    domains = sorted({case.domain for case in own})
    if len(domains) == 1:
        msg = f"{task} has one domain ({', '.join(domains)}): leaving it out leaves nothing to train on"
        raise DataError(msg)
    found = []
    for domain in domains:
        valid = tuple(case for case in own if case.domain == domain)
        groups = {case.group for case in valid}
        train = tuple(case for case in own if case.domain != domain and case.group not in groups)
        found.append(Fold(domain, train, valid))
    return tuple(found)


def joined(folds: Sequence[Fold], others: Sequence[Sequence[Fold]] | Sequence[Case]) -> tuple[Fold, ...]:
    """Folds that learn from other tasks too, and are judged by their own.

    ``others`` are the other tasks' folds, of which fold k takes the training part of fold k (so
    that the same weights, learnt in the same order, can be judged on either task), or plain
    cases, of which it takes every one whose patient it is not judged by.
    """
    found = []
    for k, fold in enumerate(folds):
        more = [c for o in others for c in ([o] if isinstance(o, Case) else o[k].train)]
        judged = {case.group for case in fold.valid}
        kept = tuple(case for case in more if case.group not in judged)
        train = sorted((*fold.train, *kept), key=lambda case: case.key)
        found.append(Fold(fold.name, tuple(train), fold.valid))
    return tuple(found)


def _enough_groups(cases: Sequence[Case], folds: int) -> None:
    for task in sorted({case.task for case in cases}):
        groups = {case.group for case in cases if case.task == task}
        if len(groups) < folds:
            msg = f"{task} has {len(groups)} patients, too few for {folds} folds: pass --folds {len(groups)}"
            raise DataError(msg)


def _warn_unknown(cases: Sequence[Case]) -> None:
    unknown = Counter(case.domain for case in cases if not case.patient)
    for domain, count in sorted(unknown.items()):
        log.warning(
            "%s: the patient of %d images is unknown, so each image stands for a patient of its own; "
            "its fold scores may be too good",
            domain,
            count,
        )
