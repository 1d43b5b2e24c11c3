"""The same network by OpenVINO: the same numbers in float32, near ones in bfloat16, and chosen by itself."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from wsiseg import machine
from wsiseg.bundle import find_bundle
from wsiseg.ensemble import TorchPredictor, load_ensemble
from wsiseg.errors import DeviceError
from wsiseg.geometry import Box
from wsiseg.model import build_network
from wsiseg.readers import open_slide
from wsiseg.vino import OpenVinoPredictor, on_engine

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="the extra openvino is not installed: pip install -e '.[openvino]'"
)


def predictor(*, encoder: str = "mobilenet_v2", fp32: bool = True, folds: int = 1) -> TorchPredictor:
    torch.manual_seed(0)
    plain = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    networks = [build_network(encoder, **plain) for _ in range(folds)]  # type: ignore[arg-type]
    for network in networks:
        head: Any = network.body.segmentation_head
        torch.nn.init.normal_(head[0].weight)  # it begins at zero
    return TorchPredictor(networks, torch.device("cpu"), batch=1, fp32=fp32, temperature=1.5)


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@needs_openvino
@pytest.mark.parametrize("encoder", ["mobilenet_v2", "mit_b0", "tu-efficientnet_lite1"])
def test_in_float32_it_gives_torchs_numbers_for_every_fold_and_size(encoder: str) -> None:
    plain = predictor(encoder=encoder, folds=2)
    faster = on_engine(plain, "auto")
    assert isinstance(faster, OpenVinoPredictor)
    for side in (128, 384):
        rgb_BYX3 = noise(3, side, side, 3)
        expected_FBYX = plain(rgb_BYX3)
        assert expected_FBYX.std() > 0.01
        assert np.abs(faster(rgb_BYX3) - expected_FBYX).max() < 1e-4


@needs_openvino
def test_in_its_best_precision_it_stays_near_on_a_real_patch(shared: Path) -> None:
    with open_slide(shared / "slides/real/qupath-OS-1-detail.ome.tif") as slide:
        rgb_YX3 = slide.read(Box(0, 0, 750, 750), (512, 512))
    folder = find_bundle("adeno-union")
    exact = load_ensemble(folder, device="cpu", fp32=True, folds=1)
    faster = on_engine(load_ensemble(folder, device="cpu", folds=1), "openvino")
    assert faster.numerics.endswith("by openvino")
    one, other = exact(rgb_YX3[None]), faster(rgb_YX3[None])
    assert np.abs(one - other).max() < 0.15
    assert ((one > 0.5) != (other > 0.5)).mean() < 0.01


@needs_openvino
def test_a_patch_gets_the_same_bits_alone_and_among_others() -> None:
    faster = on_engine(predictor(folds=2), "openvino")
    rgb_BYX3 = noise(4, 128, 128, 3)
    together_FBYX = faster(rgb_BYX3)
    for number in range(4):
        assert np.array_equal(faster(rgb_BYX3[number : number + 1])[:, 0], together_FBYX[:, number])


def test_without_the_extra_torch_computes_and_asking_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    plain = predictor()
    assert on_engine(plain, "auto") is plain
    with pytest.raises(DeviceError, match=r"not installed: wsiseg\[openvino\]"):
        on_engine(plain, "openvino")


def test_torch_may_be_asked_for_and_openvino_not_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: "found")
    plain = predictor()
    assert on_engine(plain, "torch") is plain
    plain.device = torch.device("cuda")
    assert on_engine(plain, "auto") is plain
    with pytest.raises(DeviceError, match="add --device cpu"):
        on_engine(plain, "openvino")
