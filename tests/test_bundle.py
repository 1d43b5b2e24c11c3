import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from wsiseg.bundle import BundleSpec, FoldFile, bundle_dirs, find_bundle, load_spec, verify_files, with_folds
from wsiseg.errors import BundleError, UsageError
from wsiseg.plan import make_plan
from wsiseg.testing import array_info

A, B = (
    FoldFile(file="fold-1.safetensors", sha256="a" * 64),
    FoldFile(file="fold-2.safetensors", sha256="b" * 64),
)


def spec(**changes: object) -> BundleSpec:
    given = {"name": "x", "encoder": "mit_b0", "folds": (A, B), "licence": "none", "trained_on": "nothing"}
    return BundleSpec.model_validate({**given, **changes})


def test_a_spec_written_and_read_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(spec().model_dump_json())
    assert load_spec(tmp_path) == spec()


def test_the_paper_s_patch_gives_the_paper_s_canvas() -> None:
    assert spec().canvas_mpp == 0.5 * 1500 / 1024


def test_the_order_of_folds_does_not_change_the_key_and_their_weights_do() -> None:
    assert spec(folds=(A, B)).weights_key == spec(folds=(B, A)).weights_key
    assert spec(folds=(A,)).weights_key != spec(folds=(B,)).weights_key


def test_fewer_folds_are_the_first_ones_another_key_and_never_more_than_there_are() -> None:
    assert with_folds(spec(), None) == with_folds(spec(), 2) == spec()
    assert with_folds(spec(), 1) == spec(folds=(A,))
    keys = {make_plan(array_info(2000, 2000), with_folds(spec(), count)).key for count in (1, 2)}
    assert len(keys) == 2
    with pytest.raises(UsageError, match="--folds 3: x has 2"):
        with_folds(spec(), 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 100},
        {"margin": 512},
        {"input_px": 1000},
        {"folds": ()},
        {"name": "../x"},
        {"mpp": 0},
        {"threshold": 1.0},
        {"resample": "nearest"},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_used_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**wrong)


@pytest.mark.parametrize("file", ["../fold.safetensors", "/etc/fold.safetensors", "fold.pt"])
def test_weights_lie_beside_the_spec_and_are_safetensors(file: str) -> None:
    with pytest.raises(ValidationError):
        FoldFile(file=file, sha256="0" * 64)


@pytest.mark.parametrize("file", ["fold-1.pt", "fold-1.pth", "fold-1.bin"])
def test_a_bundle_of_pickles_is_refused_by_name(tmp_path: Path, file: str) -> None:
    (tmp_path / "bundle.json").write_text(spec().model_dump_json().replace("fold-1.safetensors", file))
    with pytest.raises(BundleError, match=f"{file} looks like a pickle"):
        load_spec(tmp_path)


def test_a_broken_bundle_says_which_field(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({**spec().model_dump(mode="json"), "margin": 5}))
    with pytest.raises(BundleError, match="margin"):
        load_spec(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="not a bundle"):
        load_spec(tmp_path)


def test_missing_or_changed_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"fold-1.safetensors cannot be read"):
        verify_files(tmp_path, spec())
    (tmp_path / "fold-1.safetensors").write_bytes(b"weights")
    with pytest.raises(BundleError, match="damaged: its sha256"):
        verify_files(tmp_path, spec())


def test_bundles_are_found_by_folder_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "bundle.json").write_text(spec().model_dump_json())
    monkeypatch.setenv("WSISEG_MODELS", str(tmp_path))
    assert bundle_dirs()[0] == tmp_path
    assert find_bundle(folder) == find_bundle("mine") == folder
    with pytest.raises(BundleError, match=r"one of: .*mine"):
        find_bundle("other")
