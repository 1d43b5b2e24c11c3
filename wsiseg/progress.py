"""How far a batch is: two lines that renew themselves on a terminal, log lines elsewhere."""

import logging
import sys
import threading
import time
from typing import TextIO

from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Progress

__all__ = ["Display", "slide_line"]

log = logging.getLogger(__name__)

LOG_EVERY_S, SHOW_EVERY_S = 60.0, 0.2


def slide_line(name: str, progress: Progress) -> str:
    """One slide in words.

    >>> slide_line("a", Progress(2, 6, 10.0, megapixels=30, read_s=1, network_s=9))
    'a: 2 of 6 blocks, 3.0 Mpx/s, 20 s left, the network sets the pace'
    """
    words = [f"{name}: {progress.done} of {progress.blocks} blocks"]
    if progress.megapixels and progress.seconds:
        words.append(f"{progress.megapixels / progress.seconds:.1f} Mpx/s")
        words.append(f"{progress.seconds / progress.done * (progress.blocks - progress.done):.0f} s left")
        words.append(f"{progress.bottleneck} sets the pace")
    return ", ".join(words)


class Display:
    """The line of the batch and the line of the slide; may be called from several threads."""

    def __init__(self, total: int, stream: TextIO = sys.stderr, *, quiet: bool = False) -> None:
        self.total, self.stream = total, stream
        self.live = stream.isatty() and not quiet
        self.done = self.failed = 0
        self._lock, self._shown, self._drawn = threading.Lock(), time.monotonic(), False
        self._start = time.monotonic()

    def __call__(self, slide: SlideInput, progress: Progress) -> None:
        """Tell how far a slide is."""
        with self._lock:
            now = time.monotonic()
            if now - self._shown < (SHOW_EVERY_S if self.live else LOG_EVERY_S):
                return
            self._shown = now
            line = slide_line(slide.name, progress)
            if self.live:
                self._clear()
                self.stream.write(f"{self._batch_line()}\n{line}")
                self.stream.flush()
                self._drawn = True
            else:
                log.info(line)

    def ended(self, *, failed: bool) -> None:
        """Count a slide that is over, and make room for what is said of it."""
        with self._lock:
            self.done, self.failed = self.done + 1, self.failed + failed
            self._clear()

    def _clear(self) -> None:
        if self._drawn:
            self.stream.write("\r\x1b[K\x1b[1A\r\x1b[K")
            self.stream.flush()
            self._drawn = False

    def _batch_line(self) -> str:
        left = ""
        if self.done:
            ahead = (time.monotonic() - self._start) / self.done * (self.total - self.done)
            left = f", about {ahead / 60:.0f} min left"
        return f"{self.done} of {self.total} slides over, {self.failed} failed{left}"
