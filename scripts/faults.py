"""Take the disk or the slide away in the middle of a batch, and see that it costs one sentence.

    python scripts/faults.py                      every fault there is
    python scripts/faults.py vanishes disk-full   these

Each fault strikes when one slide of two has its first block; only a disk that is being written to cannot
be made read-only, so that one strikes before. The reason is printed; then what was
broken is mended, the same run goes on, and both maps must be the same. Ends with 1 where a
fault went otherwise. A full and a read-only disk are small ones of their own: mounting takes root.
"""

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Progress
from wsiseg.readers import openslide_reader, tile_index

CHAOS = runpy.run_path(str(Path(__file__).with_name("chaos.py")))


@dataclass(frozen=True)
class Fault:
    """How to break something, given the slide and the output folder, how to mend it, and what is said.

    ``said`` is empty where nothing goes wrong: what is open stays readable when it is unlinked.
    """

    said: str
    strike: Callable[[Path, Path], None]
    mend: Callable[[Path, Path], None] = lambda *_: None
    own_disk: bool = False
    before: bool = False


def half_torn(slide: Path, _: Path) -> None:
    """Leave noise where the lower half of the full resolution is stored."""
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with slide.open("r+b") as file:
        for offset, size in places[len(places) // 2 :]:
            file.seek(offset)
            file.write(b"\xa5" * size)


def filled(_: Path, out: Path) -> None:
    """Leave no byte free."""
    with (out.parent / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


def remounted(how: str) -> Callable[[Path, Path], None]:
    """Mount the disk below the output folder anew."""
    return lambda _, out: sys_call("mount", "-o", f"remount,{how}", str(out.parent))


FAULTS = {
    "vanishes": Fault("", lambda slide, _: slide.unlink()),
    "is-emptied": Fault("cannot be decoded", lambda slide, _: os.truncate(slide, 0)),
    "decodes-half-way": Fault("cannot be decoded", half_torn),
    "disk-full": Fault(
        "No space left on device", filled, lambda _, out: (out.parent / "filler").unlink(), own_disk=True
    ),
    "disk-read-only": Fault(
        "Read-only file system", remounted("ro"), remounted("rw"), own_disk=True, before=True
    ),
}


class MountError(Exception):
    """A small disk cannot be had here."""


def sys_call(program: str, *arguments: str) -> None:
    """Run a program of the system.

    Raises:
        MountError: it is not there, or fails.
    """
    found = shutil.which(program)
    if found is None or subprocess.run([found, *arguments], check=False, capture_output=True).returncode:  # noqa: S603
        msg = f"{program} {' '.join(arguments)} fails"
        raise MountError(msg)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 8 MiB at a folder."""
    folder.mkdir()
    sys_call("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder))
    try:
        yield
    finally:
        sys_call("umount", str(folder))


def tried(fault: Fault, folder: Path) -> str:
    """Strike, mend and go on; what is wrong with how it went, empty where nothing is."""
    slide: Path = CHAOS["draw"](folder, 1500)
    sound, other, out = slide.read_bytes(), folder / "other.svs", folder / "disk" / "out"
    shutil.copy(slide, other)
    struck = threading.Event()

    def strike(hit: SlideInput, progress: Progress) -> None:
        if hit.path == slide and progress.done and not struck.is_set():
            struck.set()
            fault.strike(slide, out)

    if fault.before:
        strike(SlideInput(slide, "slide"), Progress(1, 1, 0.0))
    batch = CHAOS["batch_of"](out)
    failed = CHAOS["failures"](batch, [slide, other], strike)
    for name, reason in failed.items():
        print(f"  {name}: {reason}")
    if not struck.is_set():
        return "it was never struck"
    if fault.said not in failed.get("slide", ""):
        return f"it should say {fault.said!r}"
    if not fault.own_disk and "other" in failed:
        return "the other slide failed too"
    fault.mend(slide, out)
    slide.write_bytes(sound)
    if again := CHAOS["failures"](batch, [slide, other]):
        return f"once mended it still fails: {again}"
    maps = [[p.read_bytes() for p in chunks(out / name)] for name in ("slide", "other")]
    return "" if maps[0] == maps[1] else "the maps of two slides that are the same differ"


def chunks(result: Path) -> list[Path]:
    """The files of the map at full resolution."""
    return sorted(path for path in (result / "probability.zarr" / "0" / "c").rglob("*") if path.is_file())


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    wrong = 0
    for name in parser.parse_args().faults or FAULTS:
        print(f"{name}:", flush=True)
        try:
            problem = one(FAULTS[name])
            print(f"  {problem or 'mended, it goes on to the same map'}", flush=True)
            wrong += bool(problem)
        except MountError as error:
            print(f"  passed over: {error}", flush=True)
    return min(1, wrong)


def one(fault: Fault) -> str:
    """Try a fault in a folder of its own; what went otherwise."""
    with uncached(), tempfile.TemporaryDirectory() as folder:
        if not fault.own_disk:
            return tried(fault, Path(folder))
        with small_disk(Path(folder) / "disk"):
            return tried(fault, Path(folder))


@contextmanager
def uncached() -> Iterator[None]:
    """No decoded tile is kept: what is read is read from the file, as it is now."""
    readers: tuple[Any, ...] = (openslide_reader, tile_index)
    before = [reader.CACHE_BYTES for reader in readers]
    try:
        for reader in readers:
            reader.CACHE_BYTES = 0
        yield
    finally:
        for reader, kept in zip(readers, before, strict=True):
            reader.CACHE_BYTES = kept


if __name__ == "__main__":
    sys.exit(main())
