"""Time wsiseg against what a user would write instead, on one slide, with one network.

    python scripts/bench.py --quick
    python scripts/bench.py --side 30000 --rounds 5 --json bench.json

The slide is drawn (seeded) by ``make_slide.py``, or given. Each contender runs in a process of
its own, turn by turn, so that a busy machine harms all alike; trust the ratios. The rival
``careful-script`` is built in: an OpenSlide loop over the same overlapping patches (those with
tissue), the same network, a numpy canvas at the network's resolution, OpenCV contours, json.
It needs the extra ``bench``. Processor time is that of the whole process, the network included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MB = 1 << 20
GLASS_SATURATION = 20
"""Of 255: what the careful script takes for glass."""


def run_wsiseg(slide: Path, model: Path, out: Path) -> dict[str, float]:
    """Segment with wsiseg, one fold, on the CPU; seconds by stage."""
    from wsiseg.options import MapOptions, PolygonOptions  # noqa: PLC0415 - contenders load only their own
    from wsiseg.run import Batch, SlideInput  # noqa: PLC0415

    options = MapOptions(model=str(model), device="cpu", folds=1)
    (outcome,) = Batch(out, options, PolygonOptions()).run([SlideInput(slide, "slide")], lambda *_: None)
    if outcome.manifest is None:
        sys.exit(f"wsiseg failed: {outcome.reason}")
    return dict(outcome.manifest.seconds)


def run_careful_script(slide: Path, model: Path, out: Path) -> dict[str, float]:
    """What a careful user writes: patch by patch, the whole map in memory, contours at the end."""
    import cv2  # noqa: PLC0415 - the extra bench
    import openslide  # noqa: PLC0415

    from wsiseg.bundle import load_spec  # noqa: PLC0415
    from wsiseg.model import load_ensemble  # noqa: PLC0415 - the same network for both

    spec, predict = load_spec(model), load_ensemble(model, device="cpu", folds=1)
    wsi = openslide.OpenSlide(str(slide))
    width, height = wsi.dimensions
    factor = spec.canvas_mpp / float(wsi.properties["openslide.mpp-x"])
    core, side = spec.input_px - 2 * spec.margin, round(spec.input_px * factor)
    canvas = np.zeros((round(height / factor), round(width / factor)), np.float32)
    thumb = np.asarray(wsi.get_thumbnail((width // 32, height // 32)).convert("HSV"))[..., 1]
    seconds = {"network": 0.0}
    for top in range(0, canvas.shape[0], core):
        for left in range(0, canvas.shape[1], core):
            y, x = round((top - spec.margin) * factor), round((left - spec.margin) * factor)
            near = thumb[max(0, y // 32) : (y + side) // 32 + 1, max(0, x // 32) : (x + side) // 32 + 1]
            if not (near > GLASS_SATURATION).any():
                continue
            region = np.asarray(wsi.read_region((x, y), 0, (side, side)))
            rgb = np.where(region[..., 3:] > 0, region[..., :3], 255).astype(np.uint8)
            patch = cv2.resize(rgb, (spec.input_px, spec.input_px), interpolation=cv2.INTER_AREA)
            start = time.perf_counter()
            prob = predict(patch[None])[0, 0]
            seconds["network"] += time.perf_counter() - start
            kept = canvas[top : top + core, left : left + core]
            kept[:] = prob[spec.margin :, spec.margin :][: kept.shape[0], : kept.shape[1]]
    contours, _ = cv2.findContours(
        (canvas >= spec.threshold).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [(c[:, 0] * factor).tolist()]}}
        for c in contours
    ]
    out.mkdir(parents=True)
    (out / "tumor.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return seconds


CONTENDERS: dict[str, Callable[[Path, Path, Path], dict[str, float]]] = {
    "wsiseg": run_wsiseg,
    "careful-script": run_careful_script,
}


def contend(name: str, slide: Path, model: Path) -> None:
    """Run one contender in this process and print what it took as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), time.process_time()
        stages = CONTENDERS[name](slide, model, Path(folder) / "out")
        wall, cpu = time.perf_counter() - start, time.process_time() - before
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB
    print(json.dumps({"wall": wall, "cpu": cpu, "peak_mb": peak_mb, "stages": stages}))


def one_round(name: str, slide: Path, model: Path, threads: int) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    command = [sys.executable, __file__, "--contend", name, "--slide", str(slide), "--model", str(model)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603 - ourselves
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tiny_bundle(folder: Path) -> Path:
    """A bundle whose network costs next to nothing, so that everything else shows; it has learnt nothing."""
    import torch  # noqa: PLC0415 - only for the tiny network

    from wsiseg.bundle import BundleSpec, FoldFile  # noqa: PLC0415
    from wsiseg.model import build_network, save_fold  # noqa: PLC0415

    torch.manual_seed(0)
    spec = BundleSpec.model_construct(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    network = build_network("mobileone_s0", mean=spec.mean, std=spec.std)
    sha256 = save_fold(network, folder / "fold-1.safetensors")
    tiny = BundleSpec(
        name="tiny",
        encoder="mobileone_s0",
        mean=spec.mean,
        std=spec.std,
        threshold=0.7,
        folds=(FoldFile(file="fold-1.safetensors", sha256=sha256),),
        licence="none",
        trained_on="nothing",
    )
    (folder / "bundle.json").write_text(tiny.model_dump_json())
    return folder


def report(results: dict[str, list[dict[str, Any]]], mpx: float) -> dict[str, Any]:
    """Print medians and ratios; return them."""
    found: dict[str, Any] = {"mpx": mpx, "ratios": {"wall": {}, "cpu": {}}, "peak_mb": {}, "stages": {}}
    for name, rounds in results.items():
        wall = [r["wall"] for r in rounds]
        cpu = statistics.median(r["cpu"] for r in rounds)
        found["peak_mb"][name] = max(r["peak_mb"] for r in rounds)
        found["stages"][name] = rounds[-1]["stages"]
        print(
            f"{name:15} wall {statistics.median(wall):7.1f} s ({min(wall):.1f} to {max(wall):.1f}), "
            f"{mpx / statistics.median(wall):6.2f} Mpx/s, peak {found['peak_mb'][name]:.0f} MB, "
            f"{1000 * cpu / mpx:.0f} ms of CPU per Mpx"
        )
        if name != "wsiseg":
            for kind in ("wall", "cpu"):
                ratios = [
                    ours[kind] / theirs[kind] for ours, theirs in zip(results["wsiseg"], rounds, strict=True)
                ]
                found["ratios"][kind][name] = statistics.median(ratios)
                spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
                print(f"  wsiseg / {name}, {kind}: {statistics.median(ratios):.2f} ({spread})")
    print("wsiseg by stage, seconds:", {k: round(v, 2) for k, v in found["stages"]["wsiseg"].items()})
    return found


def main() -> None:
    """Read the options, draw the slide, run the rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="a slide that says its mpp; drawn where none is given")
    parser.add_argument("--side", type=int, default=30_000, help="side of the drawn slide, level-0 px")
    parser.add_argument("--model", type=Path, help="a bundle's folder; a tiny network where none is given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the network")
    parser.add_argument("--quick", action="store_true", help="a slide of 8k, one round")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contend:
        contend(given.contend, given.slide, given.model)
        return
    side, rounds = (8192, 1) if given.quick else (given.side, given.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = given.slide or folder / "drawn.svs"
        if given.slide is None:
            disc = f"{side // 2},{side // 2},{side // 8}"
            drawing = [
                sys.executable,
                str(ROOT / "scripts" / "make_slide.py"),
                str(slide),
                "--side",
                str(side),
            ]
            subprocess.run([*drawing, "--glass", "0.5", "--disc", disc], check=True)  # noqa: S603 - ours
        model = given.model or tiny_bundle(folder)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for contender, taken in results.items():
                taken.append(one_round(contender, slide, model, given.threads))
        found = report(results, _mpx(slide))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def _mpx(slide: Path) -> float:
    import openslide  # noqa: PLC0415 - contenders load only their own

    with openslide.OpenSlide(str(slide)) as wsi:
        width, height = wsi.dimensions
    return float(width * height / 1e6)


if __name__ == "__main__":
    main()
