"""Time wsiseg against what a user would pick instead, on one slide, with one network.

    python scripts/bench.py --quick
    python scripts/bench.py --side 30000 --rounds 5 --json bench.json
    python scripts/bench.py --rival tiatoolbox=/venvs/tia/bin/python --rival lazyslide=/venvs/lazy/bin/python
    python scripts/bench.py --grow sides --rounds 1        # or cores, or readers

The slide is made by ``make_slide.py`` (seeded; of a real slide's tissue where ``WSISEG_SHARED`` has one)
or given. Each contender runs in a process of its own, turn by turn, so that a busy machine harms all
alike: trust the ratios and the processor time, which is without the network's where that is tiny. The
rival ``careful-script`` is built in: an OpenSlide loop over the same patches, a numpy canvas, OpenCV
contours, json; it needs the extra ``bench``. Other rivals find tissue their own way: see their patches.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor, nn

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.model import build_network, load_fold
from wsiseg.plan import make_plan
from wsiseg.readers import open_slide
from wsiseg.tissue import find_slide_tissue

SCRIPTS = Path(__file__).resolve().parent
ADAPTERS = ("tiatoolbox", "lazyslide")
REAL = "slides/real/CMU-1-Small-Region.svs"
GROWTH: dict[str, list[int]] = {"sides": [10_000, 30_000, 60_000], "cores": [1, 2], "readers": [1, 2, 3, 4]}
TINY_THRESHOLD = 0.5


class Tiny(nn.Module):
    """Darkness, blurred over some 32 pixels: a network that costs next to nothing and finds dense tissue."""

    def forward(self, rgb: Tensor) -> Tensor:
        """Probabilities (B, Y, X) of RGB (B, Y, X, 3) uint8; reads every fourth pixel."""
        grey = rgb[:, ::4, ::4].float().mean(dim=3)[:, None]
        prob = torch.sigmoid((170 - nn.functional.avg_pool2d(grey, 8)) / 10)
        return nn.functional.interpolate(prob, scale_factor=32.0, mode="bilinear", align_corners=False)[:, 0]


class Plain(nn.Module):
    """A bundle's first fold as its users would run it without wsiseg: smp, float32."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        spec = load_spec(folder)
        self.network = build_network(spec.encoder, mean=spec.mean, std=spec.std)
        load_fold(self.network, folder / spec.folds[0].file)
        for module in self.network.modules():
            if isinstance(module, Attention):
                module.__class__ = Attention  # attention written out, as smp has it

    def forward(self, rgb: Tensor) -> Tensor:
        """Probabilities (B, Y, X) of RGB (B, Y, X, 3) uint8."""
        return torch.sigmoid(self.network(rgb.permute(0, 3, 1, 2)))


@dataclass(frozen=True)
class Setting:
    """What is the same for every contender of a table."""

    folder: Path
    slide: Path
    bundle: Path | None
    rivals: dict[str, str]
    rounds: int
    cores: int
    readers: int

    @property
    def job(self) -> dict[str, Any]:
        """The job but for ``out``; every patch with tissue is in it."""
        tiny = BundleSpec.model_construct(name="tiny", threshold=TINY_THRESHOLD, folds=())
        spec = tiny if self.bundle is None else load_spec(self.bundle)
        network = Tiny() if self.bundle is None else Plain(self.bundle)
        file = self.folder / "network.pt"
        if not file.exists():
            sample = torch.zeros((1, spec.input_px, spec.input_px, 3), dtype=torch.uint8)
            with warnings.catch_warnings(
                action="ignore"
            ):  # deprecated, and what every rival's torch can load
                torch.jit.trace(network.eval(), sample, check_trace=False).save(str(file))  # type: ignore[no-untyped-call]
        with open_slide(self.slide) as slide:
            plan, tissue = make_plan(slide.info, spec), find_slide_tissue(slide)
        cores = [plan.scale.to_l0(patch.core) for block in plan.grid for patch in block.patches]
        return {
            "slide": str(self.slide),
            "network": str(file),
            "cores": [(core.x, core.y) for core in cores if tissue.covers(core)],
            "factor": plan.scale.factor,
            "mpp": plan.slide.mpp,
            "input_px": spec.input_px,
            "margin": spec.margin,
            "threshold": spec.threshold,
            "reader_threads": self.readers,
            "bundle": None if self.bundle is None else str(self.bundle),
        }

    @property
    def mpx(self) -> float:
        """Level-0 megapixels of the slide."""
        with open_slide(self.slide) as slide:
            return slide.info.extent.area / 1e6

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """What every contender took in every round, by its name; they take turns."""
        job, pythons = self.job, {"wsiseg": sys.executable, **self.rivals}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for _ in range(self.rounds):
            for name, python in pythons.items():
                found[name].append(self._run(name, python, job))
        return found

    def _run(self, name: str, python: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run one contender in a process of its own."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.cores))
        environment = {**os.environ, **threads, "PYTHONWARNINGS": "ignore"}
        out = tempfile.mkdtemp(dir=self.folder)  # kept to the end: ext4 is slow to reuse what is deleted
        file = self.folder / "job.json"
        file.write_text(json.dumps({**job, "out": out}))
        command = [python, str(SCRIPTS / "bench_contender.py"), name, str(file)]
        if self.cores < (os.cpu_count() or 1):
            command = ["taskset", "-c", f"0-{self.cores - 1}", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**took, "other_cpu": took["cpu"] - (took["network_cpu"] if self.bundle is None else 0.0)}


def report(results: dict[str, list[dict[str, Any]]], mpx: float) -> dict[str, Any]:
    """Print medians and ratios; return them."""
    found: dict[str, Any] = {"mpx": mpx, "ratios": {"wall": {}, "cpu": {}}, "contenders": {}}
    for name, rounds in results.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in ("wall", "cpu", "other_cpu")}
        peak = {key: max(one[key] for one in rounds) for key in ("peak_mb", "over_imports_mb")}
        found["contenders"][name] = {**middle, **peak, "patches": rounds[-1]["patches"]}
        walls = [one["wall"] for one in rounds]
        print(
            f"{name:15} wall {middle['wall']:7.1f} s ({min(walls):.1f} to {max(walls):.1f}), "
            f"{mpx / middle['wall']:6.2f} Mpx/s, {1000 * middle['other_cpu'] / mpx:5.1f} ms of CPU per Mpx, "
            f"peak {peak['peak_mb']:.0f} MB ({peak['over_imports_mb']:.0f} over imports), "
            f"{rounds[-1]['patches']} patches"
        )
        for kind, key in (("wall", "wall"), ("cpu", "other_cpu")) if name != "wsiseg" else ():
            ratios = [ours[key] / theirs[key] for ours, theirs in zip(results["wsiseg"], rounds, strict=True)]
            found["ratios"][kind][name] = statistics.median(ratios)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"    wsiseg / {name}, {kind}: {statistics.median(ratios):.2f} ({spread})")
    found["peak_mb"] = found["contenders"]["wsiseg"]["peak_mb"]
    ours = results["wsiseg"][-1]
    found["stages_cpu_s"] = {"network": ours["network_cpu"], **ours["stages"]}
    stages = ", ".join(f"{stage} {taken:.2f}" for stage, taken in sorted(found["stages_cpu_s"].items()))
    print(f"wsiseg's stages, seconds of CPU: {stages}")
    found["device_idle"] = ours["device_idle_s"] / (ours["device_idle_s"] + ours["network_s"])
    print(f"wsiseg's device was idle for {found['device_idle']:.0%} of the time from first to last block")
    return found


def made(folder: Path, side: int) -> Path:
    """Make the slide: half glass, real tissue where there is a slide of it."""
    path, real = folder / f"made-{side}.svs", Path(os.environ.get("WSISEG_SHARED", "../shared")) / REAL
    tissue = (
        ["--tissue-of", str(real)] if real.exists() else ["--disc", f"{side // 2},{side // 2},{side // 8}"]
    )
    command = [sys.executable, str(SCRIPTS / "make_slide.py"), str(path), "--side", str(side)]
    subprocess.run([*command, "--glass", "0.5", *tissue], check=True)  # noqa: S603 - ours
    return path


def settings(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Setting]]:
    """Yield the table that is asked for, or one for each step of a growth."""
    rivals = {"careful-script": sys.executable, **dict(given.rival)}
    bundle = None if given.model is None else find_bundle(given.model).absolute()
    side, rounds = (8192, 1) if given.quick else (given.side, given.rounds)
    usual = {"sides": side, "cores": given.cores, "readers": given.readers}
    steps = [{given.grow: step} for step in GROWTH[given.grow]] if given.grow else [{}]
    for step in steps:
        now = {**usual, **step}
        if now["cores"] > (os.cpu_count() or 1):
            continue
        slide = given.slide.absolute() if given.slide else folder / f"made-{now['sides']}.svs"
        if not slide.exists():
            made(folder, now["sides"])
        words = " ".join(f"{name} {count}" for name, count in step.items()) or "all"
        yield words, Setting(folder, slide, bundle, rivals, rounds, now["cores"], now["readers"])


def _rival(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in ADAPTERS or not Path(python).is_file():
        msg = f"{text!r}: give {' or '.join(ADAPTERS)}=PATH_TO_PYTHON of an environment that has it"
        raise argparse.ArgumentTypeError(msg)
    return name, python


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        msg = f"{text!r} is no whole number above 0"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def main() -> None:
    """Read the options, make the slide, run the rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="a slide that says its mpp; made where none is given")
    parser.add_argument("--side", type=_count, default=30_000, help="side of the made slide, level-0 px")
    parser.add_argument("--model", help="a bundle's name or folder; a tiny network where none is given")
    parser.add_argument("--rounds", type=_count, default=5)
    parser.add_argument("--cores", type=_count, default=os.cpu_count() or 1, help="cores of every contender")
    parser.add_argument("--readers", type=_count, default=3, help="wsiseg's blocks in flight (--threads)")
    parser.add_argument("--rival", type=_rival, action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--grow", choices=GROWTH, help="a table for each of several sizes, cores or readers")
    parser.add_argument("--quick", action="store_true", help="a slide of 8k, one round")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    if given.slide and not given.slide.exists():
        parser.error(f"there is no {given.slide}")
    tables = {}
    with tempfile.TemporaryDirectory() as name:
        for words, setting in settings(given, Path(name)):
            mpx = setting.mpx
            print(f"-- {words}: {setting.slide.name}, {mpx:.0f} Mpx, {setting.cores} cores", flush=True)
            tables[words] = report(setting.results(), mpx)
    if given.json:
        found = tables.get("all") or {"tables": tables}
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
