"""Folds: what must hold whatever the data."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import DataError
from wsiseg.train.cases import Case, limited
from wsiseg.train.folds import deal, folds_of, joined, leave_domain_out


def case(key: str, task: str, domain: str, patient: str, *, empty: bool) -> Case:
    path = Path(key)
    return Case(key, path, path, task, domain, 0.5, "stated", patient, "set", empty=empty)


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Case, ...]:
    """Two tasks of up to three domains; patients may appear in several domains, and in both tasks."""
    patients = st.sampled_from(["", *"abcdefghij"])
    rows = st.tuples(st.sampled_from(["t1", "t2"]), st.sampled_from("xyz"), patients, st.booleans())
    drawn = draw(st.lists(rows, min_size=1, max_size=60))
    fixed = [(task, "x", f"known{i}", False) for task in ("t1", "t2") for i in range(5)]
    return tuple(case(f"{i:03}", t, d, p, empty=e) for i, (t, d, p, e) in enumerate([*fixed, *drawn]))


@given(datasets(), st.integers(2, 5), st.integers(0, 9))
def test_no_patient_is_in_both_halves_of_a_fold(cases: tuple[Case, ...], k: int, seed: int) -> None:
    for task in ("t1", "t2"):
        for fold in folds_of(cases, task, k, seed=seed):
            assert not {c.group for c in fold.train} & {c.group for c in fold.valid}


@given(datasets(), st.integers(2, 5), st.integers(0, 9))
def test_every_case_validates_exactly_once(cases: tuple[Case, ...], k: int, seed: int) -> None:
    for task in ("t1", "t2"):
        folds = folds_of(cases, task, k, seed=seed)
        valid = [c.key for fold in folds for c in fold.valid]
        assert sorted(valid) == sorted(c.key for c in cases if c.task == task)
        assert all(len(fold.train) + len(fold.valid) == len(valid) for fold in folds)


@given(datasets(), st.integers(2, 5), st.randoms())
def test_the_order_of_the_cases_does_not_matter(cases: tuple[Case, ...], k: int, random: Random) -> None:
    mixed = list(cases)
    random.shuffle(mixed)
    assert deal(cases, k, seed=1) == deal(mixed, k, seed=1)


@given(datasets(), st.integers(2, 5))
def test_union_judges_the_same_cases_and_has_seen_no_patient_of_them(cases: tuple[Case, ...], k: int) -> None:
    own, other = (folds_of(cases, task, k, seed=0) for task in ("t1", "t2"))
    for alone, both in zip(own, joined(own, [other]), strict=True):
        assert both.valid == alone.valid
        assert set(alone.train) < set(both.train)
        assert not {c.group for c in both.train} & {c.group for c in both.valid}


@given(datasets(), st.integers(2, 5))
def test_one_tasks_fold_has_seen_no_patient_of_the_others_same_fold(cases: tuple[Case, ...], k: int) -> None:
    folds = zip(folds_of(cases, "t1", k, seed=0), folds_of(cases, "t2", k, seed=0), strict=True)
    for one, two in folds:
        assert not {c.group for c in one.train} & {c.group for c in two.valid}


@given(datasets())
def test_a_left_out_domains_patients_are_not_learnt_from_in_another_task(cases: tuple[Case, ...]) -> None:
    everywhere = (*cases, case("y", "t1", "y", "p", empty=False), case("other", "t2", "z", "p", empty=False))
    for fold in joined(leave_domain_out(everywhere, "t1"), [c for c in everywhere if c.task == "t2"]):
        judged = {c.group for c in fold.valid}
        assert not judged & {c.group for c in fold.train}
        missing = {c.key for c in everywhere if c.task == "t2"} - {c.key for c in fold.train}
        assert missing == {c.key for c in everywhere if c.task == "t2" and c.group in judged}


def test_strata_are_spread_evenly() -> None:
    cases = [
        case(f"{domain}{empty}{i}", "t", domain, f"{domain}{empty}{i}", empty=empty)
        for domain in "ab"
        for empty in (False, True)
        for i in range(10)
    ]
    for fold in folds_of(cases, "t", 5, seed=3):
        strata = [(c.domain, c.empty) for c in fold.valid]
        assert all(strata.count((d, e)) == 2 for d in "ab" for e in (False, True))


def test_the_seed_changes_the_folds() -> None:
    cases = [case(str(i), "t", "d", str(i), empty=False) for i in range(40)]
    assert deal(cases, 5, seed=0) != deal(cases, 5, seed=1)


def test_too_few_patients_is_an_error_that_says_how_many() -> None:
    cases = [case(str(i), "t", "d", str(i % 3), empty=False) for i in range(9)]
    with pytest.raises(DataError, match="3 patients, too few for 5 folds: pass --folds 3"):
        folds_of(cases, "t", 5, seed=0)


def test_unknown_patients_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    folds_of([case(str(i), "t", "lung", "", empty=False) for i in range(5)], "t", 5, seed=0)
    assert "lung: the patient of 5 images is unknown" in caplog.text


@given(datasets())
def test_a_left_out_domain_is_not_learnt_from(cases: tuple[Case, ...]) -> None:
    domains = {c.domain for c in cases if c.task == "t1"}
    if len(domains) < 2:
        with pytest.raises(DataError, match="leaves nothing"):
            leave_domain_out(cases, "t1")
        return
    for fold in leave_domain_out(cases, "t1"):
        assert {c.domain for c in fold.valid} == {fold.name}
        assert fold.name not in {c.domain for c in fold.train}


@given(datasets(), st.integers(1, 70))
def test_a_limit_keeps_so_many_of_each_domain(cases: tuple[Case, ...], limit: int) -> None:
    kept = limited(cases, limit)
    assert set(kept) <= set(cases)
    for domain in {(c.task, c.domain) for c in cases}:
        own = sum((c.task, c.domain) == domain for c in cases)
        assert sum((c.task, c.domain) == domain for c in kept) == min(limit, own)


def test_patients_of_two_data_sets_with_one_name_are_two() -> None:
    one = case("1", "t", "d", "p1", empty=False)
    assert one.group != replace(one, dataset="another").group
