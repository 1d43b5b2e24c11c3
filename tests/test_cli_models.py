"""Bundles as their user looks at them: named, shown, and refused when damaged."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from wsiseg.bundle import BundleSpec, FoldFile, load_spec
from wsiseg.cli_models import models
from wsiseg.errors import BundleError
from wsiseg.model import build_network, save_fold


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    fold = FoldFile(file="fold-1.safetensors", sha256=save_fold(network, folder / "fold-1.safetensors"))
    spec = BundleSpec(name="mine", encoder="mit_b0", folds=(fold,), licence="none", trained_on="nothing")
    (folder / "bundle.json").write_text(spec.model_dump_json())
    (folder / "README.md").write_text("# the card\n")
    monkeypatch.setenv("WSISEG_MODELS", str(folder.parent))
    return folder


def invoke(*arguments: str) -> str:
    found = CliRunner().invoke(models, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def rewrite(bundle: Path, change: dict[str, torch.Tensor]) -> None:
    """Replace tensors, and the hash with them: only the shapes and values can be found wrong."""
    path = bundle / "fold-1.safetensors"
    save_file({**load_file(path), **change}, path)
    spec = json.loads((bundle / "bundle.json").read_text())
    spec["folds"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(spec))


def test_bundles_are_listed_shown_and_found_sound(bundle: Path) -> None:
    listed = invoke("list").splitlines()
    assert any(line.startswith("mine: FPN mit_b0, 1 folds, 10 MB") for line in listed)
    assert "  not judged: see its card" in listed
    assert invoke("show", "mine").strip() == "# the card"
    assert json.loads(invoke("show", "mine", "--json"))["encoder"] == "mit_b0"
    assert invoke("verify", str(bundle)).startswith("mine is sound: 1 folds")


def test_the_list_tells_scores_of_these_weights_only_and_the_licence(bundle: Path) -> None:
    spec = load_spec(bundle)
    record = {
        "weights": spec.weights_key,
        "held_out": {"dice_mean": 0.71, "dice_low": 0.6, "dice_high": 0.8, "n": 12},
        "left_out": {"a": {"dice_mean": 0.4}, "b": {"dice_mean": 0.6}},
        "slides": {
            "false": {"x": {"fraction": 0.011, "in_rule": True}, "y": {"fraction": 0.9, "in_rule": False}}
        },
    }
    (bundle / "judgement.json").write_text(json.dumps(record))
    told = invoke("list")
    assert "Dice 0.710 held out (12 images), 0.500 on left-out domains, 1.1% of tumour-free tissue" in told
    assert "\n  none\n" in told
    facts = json.loads(invoke("list", "--json").splitlines()[-1])
    assert facts["scores"]["dice_mean"] == 0.71
    assert facts["mb"] == pytest.approx((bundle / "fold-1.safetensors").stat().st_size / 1e6)
    (bundle / "judgement.json").write_text(json.dumps({**record, "weights": "0" * 64}))
    assert "not judged" in invoke("list")
    (bundle / "judgement.json").write_text("{")
    with pytest.raises(BundleError, match=r"judgement\.json is damaged"):
        invoke("list")


def test_a_flipped_bit_is_found(bundle: Path) -> None:
    raw = bytearray((bundle / "fold-1.safetensors").read_bytes())
    raw[-1] ^= 1
    (bundle / "fold-1.safetensors").write_bytes(raw)
    with pytest.raises(BundleError, match="is damaged"):
        invoke("verify", "mine")


def test_a_tensor_of_another_shape_is_found(bundle: Path) -> None:
    rewrite(bundle, {"segmentation_head.0.bias": torch.zeros(2)})
    with pytest.raises(BundleError, match="of another network"):
        invoke("verify", "mine")


def test_weights_that_give_no_numbers_are_found(bundle: Path) -> None:
    rewrite(bundle, {"segmentation_head.0.bias": torch.full((1,), float("nan"))})
    with pytest.raises(BundleError, match="no probabilities"):
        invoke("verify", "mine")


def test_a_pickle_is_refused_by_name(bundle: Path) -> None:
    spec = json.loads((bundle / "bundle.json").read_text())
    spec["folds"][0]["file"] = "fold-1.pth"
    (bundle / "bundle.json").write_text(json.dumps(spec))
    with pytest.raises(BundleError, match="not a bundle of this version"):
        invoke("verify", "mine")
