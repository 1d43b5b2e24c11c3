"""Segment one slide with the installed ``wsiseg`` and say where the results lie.

The slide is the one given; else a core of a carcinoma from ``$WSISEG_SHARED`` (``../shared`` beside
the checkout where that is not set); else CMU-1-Small-Region.svs, skin without tumour, from
OpenSlide's public test data, its sha256 checked; else, offline, one drawn by ``make_slide.py``. It
always says which.

Run by ``make demo``; by hand: ``python scripts/demo.py --slide SLIDE -- --slide-mpp 0.5``.
"""

import argparse
import hashlib
import http.client
import os
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".demo"
OUTPUT = ROOT / "demo-output"

SHARED = "instanseg-HE_example.tif"
NAME = "CMU-1-Small-Region.svs"
URL = f"https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/{NAME}"
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
"""The sum published in the ``index.json`` of OpenSlide's test data."""

TIMEOUT_SECONDS = 30
SIDE_PX = 4096


def main() -> int:
    """Choose a slide, segment it, name the results; the exit code is wsiseg's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", default="", help="segment this slide instead of the example")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="handed on to wsiseg segment")
    given = parser.parse_args()
    slide = Path(given.slide).expanduser() if given.slide else example_slide()
    say(f"segmenting {slide}")
    began = time.time()
    code = segment(slide, given.options)
    if code != 0:
        say(f"wsiseg ended with exit code {code}; its message is above")
        return code
    return name_results(began)


def say(sentence: str) -> None:
    """Print one line at once, so that it stands before what wsiseg prints."""
    print(f"demo: {sentence}", flush=True)


def example_slide() -> Path:
    """The example slide: shared, downloaded or drawn, and a line that says which."""
    shared = Path(os.environ.get("WSISEG_SHARED") or ROOT.parent / "shared") / "slides" / "real" / SHARED
    if shared.is_file():
        say(f"the slide is {SHARED} (H&E, a core of a carcinoma) as found in the shared folder")
        return shared
    say(f"no {shared}")
    return downloaded(URL, CACHE / NAME, SHA256) or drawn(CACHE / "drawn.svs")


def downloaded(url: str, path: Path, sha256: str) -> Path | None:
    """The file at ``url``, kept at ``path``; None, and a line that says why, where it cannot be had.

    A file whose sha256 (hex) is another one is never kept and never used.
    """
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        say(f"the slide is {path.name} (skin without tumour, from OpenSlide's test data), downloaded earlier")
        return path
    say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 -- the scheme is ours
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        say(f"that failed ({error})")
        return None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        say(f"what came is not the published file (sha256 {found[:12]}..., not {sha256[:12]}...): not used")
        return None
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
    say(f"the slide is {path.name} (skin without tumour), downloaded, its sha256 as published")
    return path


def drawn(path: Path) -> Path:
    """A slide drawn at ``path``; ends the demo where it cannot be drawn."""
    path.parent.mkdir(exist_ok=True)
    script = Path(__file__).with_name("make_slide.py")
    done = subprocess.run([sys.executable, script, path, "--side", str(SIDE_PX)], check=False)  # noqa: S603 -- ours
    if done.returncode != 0:
        sys.exit("demo: no slide at hand and none could be drawn; give one with: make demo SLIDE=path")
    say("the slide is a drawing (shapes, no tissue): its outlines mean nothing; give a real one: SLIDE=path")
    return path


def segment(slide: Path, options: list[str]) -> int:
    """Run ``wsiseg segment`` as installed beside this Python; its exit code."""
    wsiseg = Path(sysconfig.get_path("scripts")) / "wsiseg"
    command = [str(wsiseg), "segment", str(slide), "-o", str(OUTPUT), "--overwrite", *options]
    try:
        code = subprocess.run(command, check=False).returncode  # noqa: S603 -- the installed wsiseg itself
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        sys.exit(f"demo: {wsiseg} does not run ({error}); install with: make install")
    return code if code >= 0 else 128 - code  # killed by a signal: as a shell says it


def name_results(began: float) -> int:
    """Name the GeoJSON written since ``began`` (seconds since the epoch) and the overview beside it."""
    coarse = 2  # seconds: the coarsest clock of a file system
    found = [path for path in OUTPUT.glob("*/tumor.geojson*") if path.stat().st_mtime >= began - coarse]
    if not found or not (overview := found[0].with_name("overview.png")).is_file():
        say(f"wsiseg reported success, but wrote no tumor.geojson with an overview.png under {OUTPUT}")
        return 1
    print(f"\nFor QuPath: {found[0]}\nTo look at: {overview}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
