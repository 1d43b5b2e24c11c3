"""Where real slides and patches are found."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # laws are judged, never timed: machines are busy
settings.load_profile("untimed")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's job in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and patches; tests that need it skip where it is absent."""
    path = Path(os.environ.get("WSISEG_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "slides").is_dir():
        pytest.skip(f"no real slides at {path}: set WSISEG_SHARED to the folder that holds slides/ and data/")
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of random weights: a real bundle that has learnt nothing."""
    from wsiseg.bundle import BundleSpec, FoldFile  # noqa: PLC0415 - most tests need neither it nor torch
    from wsiseg.model import build_network, save_fold  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("bundle") / "random"
    folder.mkdir()
    folds = []
    for number in (1, 2):
        network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        name = f"fold-{number}.safetensors"
        folds.append(FoldFile(file=name, sha256=save_fold(network, folder / name)))
    spec = BundleSpec(
        name="random",
        encoder="mit_b0",
        patch_px=1500,
        input_px=256,  # so that a test takes seconds
        margin=64,
        min_area_um2=0,
        folds=tuple(folds),
        licence="none",
        trained_on="nothing",
    )
    (folder / "bundle.json").write_text(spec.model_dump_json())
    return folder
