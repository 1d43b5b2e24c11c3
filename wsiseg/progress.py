"""How far a batch is: lines that renew themselves on a terminal, and log lines now and then."""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Progress

__all__ = ["Display", "slide_line"]

log = logging.getLogger(__name__)

LOG_EVERY_S, SHOW_EVERY_S = 60.0, 0.2
BACK_AND_UP, BACK = "\r\x1b[K\x1b[1A", "\r\x1b[K"


def slide_line(name: str, progress: Progress) -> str:
    """One slide in words.

    >>> slide_line("a", Progress(2, 6, 10.0, megapixels=30, read_s=1, network_s=9))
    'a: 2 of 6 blocks, 3.0 Mpx/s, 20 s left, the network sets the pace'
    >>> slide_line("a", Progress(6, 6, 30.0))
    'a: 6 of 6 blocks, being outlined'
    """
    words = [f"{name}: {progress.done} of {progress.blocks} blocks"]
    if progress.done == progress.blocks:
        words.append("being outlined")
    elif progress.megapixels and progress.seconds:
        speed = progress.megapixels / progress.seconds
        words.append(f"{speed:.{1 if speed >= 1 else 2}f} Mpx/s")
        left_s = progress.seconds / progress.done * (progress.blocks - progress.done)
        words.append(f"{in_words(left_s)} left")
        words.append(f"{progress.bottleneck} sets the pace")
    return ", ".join(words)


def in_words(seconds: float) -> str:
    """A time to wait, in the unit that one would say it in.

    >>> in_words(100), in_words(1800), in_words(30_000)
    ('100 s', '30 min', '8 h 20 min')
    """
    minutes = round(seconds / 60)
    if seconds < 120:  # noqa: PLR2004 - seconds
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004


class Display:
    """A line for the batch and one for every slide in work; may be called from several threads."""

    def __init__(self, total: int, stream: TextIO = sys.stderr, *, quiet: bool = False) -> None:
        self.total, self.stream = total, stream
        self.live = stream.isatty() and not quiet
        self.done = self.failed = self.worked_on = 0
        self._slides: dict[str, Progress] = {}
        self._lock, self._drawn = threading.RLock(), 0
        self._start = self._shown = self._logged = time.monotonic()

    def __call__(self, slide: SlideInput, progress: Progress) -> None:
        """Tell how far a slide is."""
        with self._lock:
            self._slides[slide.name] = progress
            now = time.monotonic()
            if self.live and now - self._shown >= SHOW_EVERY_S:
                self._shown = now
                self._clear()
                self._draw()
            lines = self._lines() if now - self._logged >= LOG_EVERY_S else []
            self._logged = now if lines else self._logged
        for line in lines:
            log.info(line)

    @contextmanager
    def ended(self, slide: SlideInput, *, failed: bool = False) -> Iterator[None]:
        """Count a slide that is over, and leave the terminal to what is said of it.

        One that had no block done, for it was finished before or could not be opened, foretells nothing.
        """
        with self._lock:
            self.done, self.failed = self.done + 1, self.failed + failed
            self.worked_on += self._slides.pop(slide.name, None) is not None
            self._clear()
            yield

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Make way for whatever is logged meanwhile, and leave no line behind."""
        handlers = logging.getLogger().handlers if self.live else []
        for handler in handlers:
            handler.addFilter(self._make_way)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(self._make_way)
            with self._lock:
                self._clear()

    def _make_way(self, _: logging.LogRecord) -> bool:
        with self._lock:
            self._clear()
        return True

    def _draw(self) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [line[: columns - 1] for line in self._lines()[: rows - 1]]  # one that wraps is two
        self.stream.write("\n".join(lines))
        self.stream.flush()
        self._drawn = len(lines)

    def _clear(self) -> None:
        if self._drawn:
            self.stream.write(BACK_AND_UP * (self._drawn - 1) + BACK)
            self.stream.flush()
            self._drawn = 0

    def _lines(self) -> list[str]:
        left = ""
        begun = sum(one.done / one.blocks for one in self._slides.values() if one.blocks)
        if self.worked_on + begun > 0:
            ahead = (self.total - self.done - begun) / (self.worked_on + begun)
            left = f", about {in_words((time.monotonic() - self._start) * ahead)} left"
        lines = [slide_line(name, progress) for name, progress in self._slides.items()]
        return [f"{self.done} of {self.total} slides over, {self.failed} failed{left}", *lines]
