"""Folds: what must hold whatever the data."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import DataError
from wsiseg.train.cases import Case, limited, read_cases
from wsiseg.train.folds import Strata, _spread, deal, folds_of, joined, leave_domain_out
from wsiseg.train.records import read_learnt


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


@st.composite
def crowds(draw: st.DrawFn, tasks: str) -> tuple[Case, ...]:
    """Tasks of few patients with few or many images each; a patient may be in any of the tasks."""
    rows = st.tuples(st.sampled_from(tasks), st.sampled_from("xyz"), st.integers(0, 9), st.integers(1, 12))
    drawn = draw(st.lists(rows, min_size=2, max_size=25))
    every = [(t, d, f"p{p}") for t, d, p, count in drawn for _ in range(count)]
    return tuple(case(f"{i:03}", t, d, p, empty=False) for i, (t, d, p) in enumerate(every))


@given(crowds("ab"), st.integers(2, 5), st.integers(0, 9))
def test_every_fold_has_a_case_to_be_judged_by_unless_patients_are_fewer(
    cases: tuple[Case, ...], k: int, seed: int
) -> None:
    for task in {c.task for c in cases}:
        count = len({c.group for c in cases if c.task == task})
        if count < k:
            advice = f"has {count} patients, too few for {k} folds: pass --folds {count}"
            with pytest.raises(DataError, match="add images" if count == 1 else advice):
                folds_of(cases, task, k, seed=seed)
            continue
        for fold in folds_of(cases, task, k, seed=seed):
            assert fold.valid
            assert fold.train


@given(crowds("abcd"), st.integers(2, 5), st.integers(0, 9))
def test_no_fold_of_many_tasks_is_without_a_case_unless_that_is_said(
    cases: tuple[Case, ...], k: int, seed: int
) -> None:
    for task in {c.task for c in cases}:
        try:
            folds = folds_of(cases, task, k, seed=seed)
        except DataError as error:
            assert "pass" in str(error) or "add images" in str(error)  # noqa: PT017 - either may be right
        else:
            assert all(fold.valid for fold in folds)


@given(st.one_of(datasets(), crowds("ab")), st.integers(2, 5))
def test_folds_that_all_have_cases_are_left_as_they_were_dealt(cases: tuple[Case, ...], k: int) -> None:
    groups = {c.group: Strata() for c in cases}
    for c in cases:
        groups[c.group][c.task, c.domain, c.empty] += 1
    order = sorted(groups, key=lambda g: (-groups[g].total(), sha256(f"0/{g}".encode()).hexdigest()))
    dealt = _spread({g: groups[g] for g in order}, k)
    for task in {c.task for c in cases}:
        own = {c.group for c in cases if c.task == task}
        if len(own) >= k > len({dealt[g] for g in own}):
            return
    assert deal(cases, k, seed=0) == {c.key: dealt[c.group] for c in cases}


def test_patients_whom_the_other_tasks_weight_crowds_together_are_moved_apart() -> None:
    few = [case(f"a{i}", "a", f"d{i}", f"x{i}", empty=True) for i in range(5)]
    many = [case(f"b{i}{j}", "b", "c", f"r{i}", empty=j % 2 == 0) for i in range(5) for j in range(10 - i)]
    assert [len(fold.valid) for fold in folds_of([*few, *many], "a", 5, seed=0)] == [1] * 5
    assert sorted(len(fold.valid) for fold in folds_of([*few, *many], "b", 5, seed=0)) == [6, 7, 8, 9, 10]


def test_tasks_that_share_patients_so_that_a_fold_stays_empty_are_named() -> None:
    shared = [("p", "ab"), ("q", "ac"), ("r", "bc")]
    cases = [case(t + p, t, "d", p, empty=False) for p, tasks in shared for t in tasks]
    place = deal(cases, 2, seed=0)
    (starved,) = (t for t in "abc" if len({place[c.key] for c in cases if c.task == t}) == 1)
    with pytest.raises(DataError, match=f"{starved} shares patients with other tasks so that some of its 2"):
        folds_of(cases, starved, 2, seed=0)


def test_the_folds_of_the_real_patches_are_those_that_the_shipped_networks_learnt_from(shared: Path) -> None:
    learnt = read_learnt(Path(__file__).parents[1] / "models" / "adeno-union")
    cases = read_cases(shared / "data", image_mpp=0.5)
    own, other = (folds_of(cases, task, 5, seed=0) for task in ("task1", "task2"))
    assert learnt
    for fold in joined(own, [other]):
        assert {"/".join(c.group) for c in fold.train} == learnt[fold.name]


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
def test_a_left_out_domain_and_its_patients_are_not_learnt_from_in_another_task(
    cases: tuple[Case, ...],
) -> None:
    everywhere = (
        *cases,
        case("y", "t1", "y", "p", empty=False),
        case("y other", "t1", "y", "only there", empty=False),
        case("w", "t1", "w", "only here", empty=False),
        case("other", "t2", "z", "p", empty=False),
    )
    for fold in joined(leave_domain_out(everywhere, "t1"), [c for c in everywhere if c.task == "t2"]):
        judged = {c.group for c in fold.valid}
        assert not judged & {c.group for c in fold.train}
        assert fold.name not in {c.domain for c in fold.train}
        missing = {c.key for c in everywhere if c.task == "t2"} - {c.key for c in fold.train}
        assert missing == {
            c.key for c in everywhere if c.task == "t2" and (c.group in judged or c.domain == fold.name)
        }


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


def test_one_patient_is_an_error_whose_advice_works() -> None:
    cases = [case(str(i), "t", "d", "p", empty=False) for i in range(9)]
    with pytest.raises(DataError, match=r"t has one patient.*add images of another patient") as caught:
        folds_of(cases, "t", 2, seed=0)
    assert "--folds" not in str(caught.value)


def test_a_task_with_too_few_patients_does_not_keep_another_from_being_trained() -> None:
    cases = [
        case(f"{t}{i}", t, "d", f"{t}{i % n}", empty=False) for t, n in (("a", 6), ("b", 3)) for i in range(6)
    ]
    assert all(fold.valid for fold in folds_of(cases, "a", 5, seed=0))
    with pytest.raises(DataError, match="b has 3 patients"):
        folds_of(cases, "b", 5, seed=0)


def test_unknown_patients_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    folds_of([case(str(i), "t", "lung", "", empty=False) for i in range(5)], "t", 5, seed=0)
    assert "lung: the patient of 5 images is unknown" in caplog.text


@given(datasets())
def test_a_left_out_domain_is_not_learnt_from(cases: tuple[Case, ...]) -> None:
    own = [c for c in cases if c.task == "t1"]
    domains = {c.domain for c in own}
    if any({c.group for c in own} == {c.group for c in own if c.domain == d} for d in domains):
        with pytest.raises(DataError, match="leaves nothing"):
            leave_domain_out(cases, "t1")
        return
    for fold in leave_domain_out(cases, "t1"):
        assert fold.train
        assert {c.domain for c in fold.valid} == {fold.name}
        assert fold.name not in {c.domain for c in fold.train}


def test_leaving_out_a_domain_in_which_all_patients_are_is_an_error_that_says_what_to_do() -> None:
    cases = [case(f"{d}{i}", "t", d, f"p{i}", empty=False) for d in ("scanA", "scanB") for i in range(6)]
    with pytest.raises(
        DataError, match=r"every patient of t is in its domain scanA.*without --leave-domain-out"
    ):
        leave_domain_out(cases, "t")


def unknown(key: str, task: str, domain: str, dataset: str, patient: str = "") -> Case:
    """An image of an unknown patient (or of one) of a data set, or of none that is stated."""
    stated = "stated" if dataset else "assumed"
    one = case(key, task, domain, patient, empty=False)
    return replace(one, dataset=dataset or domain, dataset_is=stated)


@pytest.mark.parametrize(
    ("left", "other", "warned"),
    [
        (("", ""), ("", ""), True),
        (("S", ""), ("S", ""), True),
        (("S", ""), ("S", "p1"), True),
        (("S", ""), ("", "p1"), True),
        (("S", "p1"), ("", ""), True),
        (("S", "p1"), ("S", "p2"), False),
        (("", "p1"), ("", "p2"), False),
        (("S", ""), ("T", ""), False),
        (("S", ""), ("T", "p1"), False),
    ],
)
def test_patients_who_may_be_in_the_domain_left_out_and_in_others_are_warned_of(
    left: tuple[str, str], other: tuple[str, str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = unknown("1", "t", "a", *left), unknown("2", "t", "b", *other)
    leave_domain_out([one, two], "t")
    assert [said.split(" it is unknown")[0] for said in caplog.messages] == (
        ["a: of 1 images", "b: of 1 images"] if warned else []
    )
    caplog.clear()
    alone = leave_domain_out([one, unknown("3", "t", "b", "far away", "p")], "t")[:1]
    before = len(caplog.messages)
    joined(alone, [replace(two, task="another", domain="c")])
    assert len(caplog.messages) - before == (warned and not before)


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
