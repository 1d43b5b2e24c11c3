"""Which cases train and which validate: a pure function of the cases, K and the seed.

Cases are dealt to K folds by group (a patient is never split, not even over two tasks),
so that every stratum (task, domain, mask empty or not) is spread as evenly as its groups
allow; where that leaves a fold without a case of a task, groups are moved to it. All tasks
are dealt at once and the strategy is not asked: every strategy validates on the same cases,
and weights of one task's fold have seen no patient of another task's same fold.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wsiseg.errors import DataError
from wsiseg.train.cases import Case

__all__ = ["Fold", "deal", "folds_of", "joined", "leave_domain_out"]

log = logging.getLogger(__name__)

Group = tuple[str, str]
Strata = Counter[tuple[str, str, bool]]


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

    Every task has a case in every fold, unless it has fewer groups than there are folds, or
    shares its groups with two other tasks or more so that nothing can be moved.
    """
    groups: dict[Group, Strata] = {}
    for case in cases:
        groups.setdefault(case.group, Strata())[case.task, case.domain, case.empty] += 1

    def order(group: Group) -> tuple[int, str]:
        return -groups[group].total(), hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()

    ordered = {group: groups[group] for group in sorted(groups, key=order)}
    place = _spread(ordered, folds)
    _fill(place, ordered, folds)
    return {case.key: place[case.group] for case in cases}


def _spread(groups: Mapping[Group, Strata], folds: int) -> dict[Group, int]:
    """The fold of every group.

    Groups are dealt in their order (largest first, ties as the seed shuffles them), each to the fold
    that then holds the least of the group's strata, counted in shares of each stratum.
    """
    strata = sum(groups.values(), Strata())
    held = [Strata() for _ in range(folds)]
    place: dict[Group, int] = {}
    for group, own in groups.items():

        def load(fold: int, own: Strata = own) -> tuple[float, int, int]:
            share = sum(held[fold][s] * own[s] / strata[s] for s in own)
            return share, held[fold].total(), fold

        place[group] = min(range(folds), key=load)
        held[place[group]].update(own)
    return place


def _fill(place: dict[Group, int], groups: Mapping[Group, Strata], folds: int) -> None:
    """Move groups until each task with enough of them has one in every fold; ``place`` is changed.

    A group leaves only a fold in which each of its tasks has another, so that every move fills
    one place and empties none. Of those the smallest is moved.
    """
    tasks = {group: {task for task, _, _ in own} for group, own in groups.items()}
    count = Counter(task for own in tasks.values() for task in own)
    places = [(task, fold) for task in sorted(count) if count[task] >= folds for fold in range(folds)]
    held = Counter((task, place[group]) for group, own in tasks.items() for task in own)
    unfilled = [one for one in places if not held[one]]
    while unfilled:
        moves = [
            (groups[group].total(), number, group, fold)
            for task, fold in unfilled
            for number, (group, own) in enumerate(tasks.items())
            if task in own and all(held[each, place[group]] > 1 for each in own)
        ]
        if not moves:
            return
        _, _, group, fold = min(moves)
        held.subtract((task, place[group]) for task in tasks[group])
        held.update((task, fold) for task in tasks[group])
        place[group] = fold
        unfilled = [one for one in places if not held[one]]


def folds_of(cases: Sequence[Case], task: str, folds: int, *, seed: int) -> tuple[Fold, ...]:
    """The K folds of one task; ``cases`` are those of every task in the data folder.

    A domain with fewer patients than K is in the validation part of some folds only.

    Raises:
        DataError: the task has fewer groups than there are folds, or no case for one of them.
    """
    own = [case for case in cases if case.task == task]
    _check_groups(own, task, folds)
    place = deal(cases, folds, seed=seed)
    if len({place[case.key] for case in own}) < folds:
        msg = (
            f"{task} shares patients with other tasks so that some of its {folds} folds would have none "
            "to be judged by: pass a smaller --folds, or move the other tasks to a data folder of their own"
        )
        raise DataError(msg)
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

    Patients of that domain are not learnt from in the others either.

    Raises:
        DataError: the task has one domain only, or no patient who is not in the domain left out.
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
        if not train:
            msg = (
                f"every patient of {task} is in its domain {domain}: leaving it out leaves nothing to "
                "train on. Train without --leave-domain-out (folds never split a patient) or, if one name "
                "stands for several patients, tell them apart by patient_id or dataset in manifest.csv"
            )
            raise DataError(msg)
        _warn_unknown_beyond(domain, _may_be_known(valid, train))
        found.append(Fold(domain, train, valid))
    return tuple(found)


def joined(folds: Sequence[Fold], others: Sequence[Sequence[Fold]] | Sequence[Case]) -> tuple[Fold, ...]:
    """Folds that learn from other tasks too, and are judged by their own.

    ``others`` are the other tasks' folds, of which fold k takes the training part of fold k (so
    that the same weights, learnt in the same order, can be judged on either task), or plain
    cases, of which it takes every one whose patient and domain it is not judged by.
    """
    found = []
    for k, fold in enumerate(folds):
        left = {case.domain for case in fold.valid}
        plain = [o for o in others if isinstance(o, Case) and o.domain not in left]
        dealt = [case for o in others if not isinstance(o, Case) for case in o[k].train]
        judged = {case.group for case in fold.valid}
        kept = tuple(case for case in (*plain, *dealt) if case.group not in judged)
        if plain:
            more = _may_be_known(fold.valid, kept) - _may_be_known(fold.valid, fold.train)
            _warn_unknown_beyond(fold.name, more)
        train = sorted((*fold.train, *kept), key=lambda case: case.key)
        found.append(Fold(fold.name, tuple(train), fold.valid))
    return tuple(found)


def _check_groups(own: Sequence[Case], task: str, folds: int) -> None:
    count = len({case.group for case in own})
    if count == 1:
        msg = (
            f"{task} has one patient, and folds need two at least, one of them to be judged by: add images "
            "of another patient (or raise --limit), or correct patient_id in manifest.csv"
        )
        raise DataError(msg)
    if count < folds:
        msg = f"{task} has {count} patients, too few for {folds} folds: pass --folds {count}"
        raise DataError(msg)


def _warn_unknown(cases: Sequence[Case]) -> None:
    unknown = Counter(case.domain for case in cases if not case.patient)
    for domain, count in sorted(unknown.items()):
        log.warning(
            "%s: the patient of %d images is unknown, so each image stands for a patient of its own; "
            "its fold scores may be too good (patient_id in manifest.csv would tell)",
            domain,
            count,
        )


def _may_be_known(judged: Iterable[Case], learnt: Sequence[Case]) -> set[str]:
    """The keys of the cases whose patients may be among those learnt from, and nobody could tell.

    One of two patients is unknown then, and they are not of two data sets that are stated.
    """
    every = {case.scope for case in learnt}
    unknown = {case.scope for case in learnt if not case.patient}
    found = set()
    for case in judged:
        scopes = unknown if case.patient else every
        if case.scope in scopes or (scopes and ("" in scopes or not case.scope)):
            found.add(case.key)
    return found


def _warn_unknown_beyond(domain: str, keys: set[str]) -> None:
    if keys:
        log.warning(
            "%s: of %d images it is unknown whether their patients are learnt from in other domains; the "
            "fold's score may be too good (patient_id and dataset in manifest.csv would tell)",
            domain,
            len(keys),
        )
