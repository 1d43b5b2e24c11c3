"""What is told of a training while it goes: lines, a file, a board."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from wsiseg.errors import UsageError
from wsiseg.train.watch import FoldWatch


def record(epoch: int) -> dict[str, Any]:
    return {"fold": "1", "epoch": epoch, "loss": 1 / epoch, "dice": 0.5, "images_per_s": 8.0, "seconds": 1.0}


def test_every_epoch_is_a_line_of_metrics_and_a_line_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = FoldWatch(tmp_path, 4)
    for epoch in (1, 2):
        watch.step(8, 0.7, (4 * epoch - 3) / 16)
        watch.epoch(record(epoch))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [record(1), record(2)]
    said = capsys.readouterr().err
    assert "epoch 2/4, loss 0.5000, Dice 0.5000, 8.0 images/s" in said
    assert "min left" in said


def test_an_epoch_that_is_done_again_has_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for epochs in ((1, 2), (2, 3)):
        watch = FoldWatch(tmp_path, 3)
        for epoch in epochs:
            watch.epoch(record(epoch))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert "nan" not in capsys.readouterr().err


def test_a_terminal_has_a_bar_with_loss_dice_pace_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    watch = FoldWatch(tmp_path, 2)
    watch.terminal = True
    watch.step(60, 0.7, 0.25)
    watch.step(60, 0.6, 0.5)
    watch.epoch(record(1))
    watch.step(60, 0.5, 0.75)
    bars = capsys.readouterr().err.split("\r")
    assert bars[2].startswith(
        f"{tmp_path.name}: [############............] loss 0.600, Dice not yet known, 1.0"
    )
    assert "loss 0.500, Dice 0.500" in bars[-1]
    assert "min left" in bars[-1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_a_board_has_the_numbers_of_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    watch = FoldWatch(tmp_path, 2, tensorboard=True)
    for epoch in (1, 2):
        watch.epoch(record(epoch))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    for name in ("loss", "dice", "images_per_s"):
        values = [(one.step, one.value) for one in found.Scalars(name)]
        assert values == [(epoch, pytest.approx(record(epoch)[name])) for epoch in (1, 2)]


def test_only_the_first_process_has_a_board(tmp_path: Path) -> None:
    assert FoldWatch(tmp_path, 1, rank=1, tensorboard=True).board is None
    assert not list(tmp_path.iterdir())


def test_a_board_that_is_not_installed_is_asked_for_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'wsiseg\[tensorboard\]'"):
        FoldWatch(tmp_path, 1, tensorboard=True)
