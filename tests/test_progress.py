"""What a person sees of a batch, on a terminal and elsewhere."""

import io
import logging
from pathlib import Path

import pytest

from wsiseg import progress
from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Progress
from wsiseg.progress import BACK, BACK_AND_UP, Display

A, B = (SlideInput(Path(name), name) for name in "ab")
END = f"{BACK_AND_UP}{BACK}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_EVERY_S", 0.0)
    monkeypatch.setenv("COLUMNS", "40")


def test_a_terminal_has_a_line_for_the_batch_and_one_for_every_slide_in_work() -> None:
    to = Terminal()
    display = Display(3, to)
    display(A, Progress(1, 4, 2.0, megapixels=6, read_s=3, network_s=1))
    display(B, Progress(0, 9, 0.0))
    first, *slides = to.getvalue().split(END)[-1].splitlines()
    assert first.startswith("0 of 3 slides over, 0 failed")
    assert slides == [
        "a: 1 of 4 blocks, 3.0 Mpx/s, 6 s left, reading sets the pace"[:39],
        "b: 0 of 9 blocks",
    ]
    with display.ended(A, failed=True):
        to.write("a: failed\n")
    display(B, Progress(1, 9, 1.0))
    last = to.getvalue().split("a: failed\n")[-1].splitlines()
    assert last[0].startswith("1 of 3 slides over, 1 failed, about ")
    assert last[1] == "b: 1 of 9 blocks"


def test_what_is_logged_takes_the_place_of_the_lines_and_none_is_left_at_the_end() -> None:
    to = Terminal()
    handler, logger = logging.StreamHandler(to), logging.getLogger()
    logger.addHandler(handler)
    try:
        display = Display(1, to)
        with display.shown():
            display(A, Progress(0, 4, 0.0))
            logger.warning("memory is short")
            display(A, Progress(1, 4, 0.0))
    finally:
        logger.removeHandler(handler)
    drawn, said = to.getvalue().split("memory is short\n")
    assert drawn.endswith(f"a: 0 of 4 blocks{END}")
    assert said.endswith(f"a: 1 of 4 blocks{END}")


def test_slides_that_were_done_before_do_not_make_the_rest_look_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    now = [0.0]
    monkeypatch.setattr("wsiseg.progress.time.monotonic", lambda: now[0])
    to = Terminal()
    display = Display(302, to)
    for _ in range(300):
        with display.ended(A):
            pass
    display(A, Progress(0, 9, 0.0))
    now[0] = 600.0
    with display.ended(A):
        pass
    display(B, Progress(0, 9, 0.0))
    assert "301 of 302 slides over, 0 failed, about 10 min left" in to.getvalue()
    display(B, Progress(3, 9, 200.0))
    assert "301 of 302 slides over, 0 failed, about 5 min left" in to.getvalue(), "what is begun counts"


def test_elsewhere_there_is_a_log_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    to = io.StringIO()
    display = Display(2, to)
    with caplog.at_level(logging.INFO, "wsiseg"):
        display(A, Progress(0, 4, 0.0))
        assert caplog.messages == []
        monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
        display(A, Progress(1, 4, 0.0))
    assert [message.partition(", about")[0] for message in caplog.messages] == [
        "0 of 2 slides over, 0 failed",
        "a: 1 of 4 blocks",
    ]
    assert to.getvalue() == ""
