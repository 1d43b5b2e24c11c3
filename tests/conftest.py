"""Where real slides and patches are found."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # laws are judged, never timed: machines are busy
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and patches; tests that need it skip where it is absent."""
    path = Path(os.environ.get("WSISEG_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "slides").is_dir():
        pytest.skip(f"no real slides at {path}: set WSISEG_SHARED to the folder that holds slides/ and data/")
    return path
