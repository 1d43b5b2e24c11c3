import pickle
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from wsiseg.device import choose_device
from wsiseg.ensemble import TorchPredictor
from wsiseg.errors import BundleError, DeviceError
from wsiseg.model import Network, build_network, load_fold, save_fold

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network("mit_b0", mean=MEAN, std=STD).eval()


def patches(count: int, side: int = 128) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def predictor(
    *networks: Network, fp32: bool = True, batch: int = 1, temperature: float = 1.0
) -> TorchPredictor:
    return TorchPredictor(list(networks), CPU, batch=batch, fp32=fp32, temperature=temperature)


def encoder_of(network: Network) -> torch.nn.Module:
    encoder = network.body.encoder
    assert isinstance(encoder, torch.nn.Module)
    return encoder


def test_sdpa_changes_smps_numbers_by_less_than_1e_4(network: Network) -> None:
    plain = smp.FPN("mit_b0", encoder_weights=None, classes=1).eval()
    plain.load_state_dict(network.body.state_dict())
    rgb = torch.from_numpy(patches(2)).permute(0, 3, 1, 2)
    normal = (rgb / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        difference = (plain(normal)[:, 0] - network(rgb)).abs().max()
    assert difference < 1e-4
    assert {type(m).__name__ for m in network.body.modules() if "Attention" in type(m).__name__} == {
        "_Attention"
    }


def test_a_saved_fold_comes_back_to_half_precision(network: Network, tmp_path: Path) -> None:
    save_fold(network, tmp_path / "fold-1.safetensors")
    other = build_network("mit_b0", mean=MEAN, std=STD)
    load_fold(other, tmp_path / "fold-1.safetensors")
    for name, tensor in network.body.state_dict().items():
        assert torch.equal(
            other.body.state_dict()[name], tensor.half().float() if tensor.is_floating_point() else tensor
        )
    assert [path.name for path in tmp_path.iterdir()] == ["fold-1.safetensors"]


def test_saving_twice_gives_one_hash(network: Network, tmp_path: Path) -> None:
    assert save_fold(network, tmp_path / "a.safetensors") == save_fold(network, tmp_path / "b.safetensors")


def test_on_a_cpu_the_batch_moves_no_bit(network: Network) -> None:
    rgb = patches(3)
    whole = predictor(network, batch=3)(rgb)
    single = np.concatenate([predictor(network)(rgb[i : i + 1]) for i in range(3)], axis=1)
    assert np.array_equal(whole, single)


def test_bfloat16_moves_few_pixels(network: Network) -> None:
    fine, coarse = predictor(network)(patches(1)), predictor(network, fp32=False)(patches(1))
    assert np.abs(fine - coarse).max() < 0.05


def test_folds_answer_in_their_order_and_temperature_softens(network: Network) -> None:
    torch.manual_seed(1)
    other = build_network("mit_b0", mean=MEAN, std=STD)
    both, swapped = predictor(network, other)(patches(1)), predictor(other, network)(patches(1))
    assert both.shape == (2, 1, 128, 128)
    assert np.array_equal(both, swapped[::-1])
    assert not np.array_equal(both[0], both[1])
    soft = predictor(network, temperature=4.0)(patches(1))
    assert np.abs(soft - 0.5).max() < np.abs(both[0] - 0.5).max()


def test_an_encoder_starts_from_a_file_of_an_encoder_or_of_a_whole_network(
    network: Network, tmp_path: Path
) -> None:
    save_fold(network, tmp_path / "whole.safetensors")
    weights = {k: tensor.contiguous() for k, tensor in encoder_of(network).state_dict().items()}
    save_file(weights, tmp_path / "encoder.safetensors")
    for name in ("whole", "encoder"):
        started = build_network(
            "mit_b0", mean=MEAN, std=STD, encoder_weights=str(tmp_path / f"{name}.safetensors")
        )
        for key, tensor in weights.items():
            assert torch.allclose(encoder_of(started).state_dict()[key], tensor, atol=1e-3)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.pkl", "weights.ckpt"])
def test_a_pickle_is_refused_by_name(network: Network, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({}))
    with pytest.raises(BundleError, match="looks like a pickle"):
        load_fold(network, tmp_path / name)


def test_weights_of_another_network_or_none_are_refused(network: Network, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="of another network"):
        load_fold(network, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(BundleError, match="cannot be read as safetensors"):
        load_fold(network, tmp_path / "torn.safetensors")
    with pytest.raises(BundleError, match="no encoder 'mit_b9'"):
        build_network("mit_b9", mean=MEAN, std=STD)
    with pytest.raises(BundleError, match="no encoder 'tu-efficientnet_lite1' with weights 'imagenet'"):
        build_network("tu-efficientnet_lite1", mean=MEAN, std=STD, encoder_weights="imagenet")


def test_imagenet_weights_that_cannot_be_fetched_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(smp, "FPN", offline)
    with pytest.raises(BundleError, match="weights of mit_b0 cannot be fetched: go online once"):
        build_network("mit_b0", mean=MEAN, std=STD, encoder_weights="imagenet")


def test_auto_says_aloud_that_it_means_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    assert "running on the CPU" in caplog.text


@pytest.mark.parametrize("name", ["cuda:99", "warp"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=name):
        choose_device(name)


def test_out_of_memory_halves_the_batch_and_ends_in_a_sentence(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = predictor(network)
    small.batch, small.device = 4, torch.device("cuda")  # only there is memory scarce
    forward = small._forward

    def cramped(rgb: torch.Tensor, networks: list[Network]) -> object:
        if len(rgb) > 1:
            raise torch.OutOfMemoryError
        small.device = CPU
        try:
            return forward(rgb, networks)
        finally:
            small.device = torch.device("cuda")

    monkeypatch.setattr(small, "_forward", cramped)
    assert np.allclose(small(patches(4)), predictor(network)(patches(4)), atol=1e-5)
    assert small.batch == 1
    assert caplog.text.count("out of memory") == 2

    def full(*_: object) -> object:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(small, "_forward", full)
    with pytest.raises(DeviceError, match="one patch does not fit"):
        small(patches(1))


def test_neither_cores_nor_company_move_a_bit_on_a_cpu(network: Network) -> None:
    torch.manual_seed(1)
    one, two = network, build_network("mit_b0", mean=MEAN, std=STD).eval()
    rgb_BYX3 = patches(3, 256)
    alone = predictor(one, two)
    alone.at_once = 1
    together = predictor(one, two)
    together.at_once = 5
    whole = alone(rgb_BYX3)
    assert np.array_equal(together(rgb_BYX3), whole)
    assert np.array_equal(predictor(two)(rgb_BYX3[2:])[0, 0], whole[1, 2])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert np.array_equal(alone(rgb_BYX3), whole)
    finally:
        torch.set_num_threads(threads)
