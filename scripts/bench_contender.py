"""One contender of ``bench.py``: segments one slide in this process and prints what it took as JSON.

Run by ``bench.py``, each contender by the Python of its own environment: nothing is imported here but
torch, numpy and what the contender is made of. All get the same TorchScript network (wsiseg its own
form of it, where it is a bundle's) and end with polygons in a GeoJSON file. What is measured begins
after imports and the loading of the network, and counts child processes.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

MB = 1 << 20
Rgb = npt.NDArray[np.uint8]
Prob = npt.NDArray[np.float32]
Run = Callable[[], None]


@dataclass
class Job:
    """What to do, and what it took.

    Attributes:
        slide: the slide's file.
        network: TorchScript, RGB (B, Y, X, 3) uint8 to probabilities (B, Y, X).
        out: an empty folder for results.
        cores: the first level-0 pixel ``x, y`` of the core of each patch that holds tissue.
        factor: level-0 pixels per pixel that the network sees.
        mpp: microns per level-0 pixel.
        input_px, margin: of a patch, in pixels that the network sees.
        bundle: a bundle's folder for wsiseg; None where the network is the tiny one.
    """

    slide: str
    network: str
    out: str
    cores: list[tuple[int, int]]
    factor: float
    mpp: float
    input_px: int
    margin: int
    threshold: float
    reader_threads: int
    bundle: str | None
    found: dict[str, Any] = field(
        default_factory=lambda: {"network_s": 0.0, "network_cpu": 0.0, "patches": 0}
    )
    stages: dict[str, float] = field(default_factory=dict)

    def network_of(self) -> Callable[[Rgb], Prob]:
        """The network as a function, which notes what it takes."""
        script, lock = torch.jit.load(self.network).eval(), threading.Lock()  # type: ignore[no-untyped-call]

        def predict(rgb_BYX3: Rgb) -> Prob:
            if self.bundle is None:
                torch.set_num_threads(1)  # for this thread, whose processor time is then all there is
            wall, cpu = time.perf_counter(), time.thread_time()
            with torch.inference_mode():
                prob_BYX: Prob = script(torch.from_numpy(np.ascontiguousarray(rgb_BYX3))).numpy()
            with lock:
                self.found["network_s"] += time.perf_counter() - wall
                self.found["network_cpu"] += time.thread_time() - cpu
                self.found["patches"] += len(rgb_BYX3)
            return prob_BYX

        return predict

    def timed(self, owner: Any, name: str, stage: str) -> None:
        """Let a function count the processor time of its thread, less that of others so timed within it."""
        done, lock = getattr(owner, name), threading.Lock()

        def counted(*given: Any, **named: Any) -> Any:
            outer = getattr(_WITHIN, "s", None)
            _WITHIN.s, start = 0.0, time.thread_time()
            try:
                return done(*given, **named)
            finally:
                taken = time.thread_time() - start
                with lock:
                    self.stages[stage] = self.stages.get(stage, 0.0) + taken - _WITHIN.s
                _WITHIN.s = None if outer is None else outer + taken

        setattr(owner, name, counted)


_WITHIN = threading.local()


@dataclass(frozen=True, eq=False)
class Loaded:
    """What wsiseg takes for the recipe of its predictor."""

    network: Callable[[Rgb], Prob]

    def __call__(self) -> Callable[[Rgb], Prob]:
        """One fold: (1, B, Y, X)."""
        return lambda rgb_BYX3: self.network(rgb_BYX3)[None]


def wsiseg(job: Job) -> Run:
    """Segment with wsiseg, one fold, on the CPU."""
    from wsiseg import canvas, export, look, one_slide, pipeline, reads, recipes  # noqa: PLC0415
    from wsiseg.bundle import BundleSpec, FoldFile  # noqa: PLC0415
    from wsiseg.options import MapOptions, PolygonOptions  # noqa: PLC0415
    from wsiseg.readers import pyramid  # noqa: PLC0415
    from wsiseg.run import Batch, SlideInput  # noqa: PLC0415

    model: Any = None
    if job.bundle is None:
        fold = FoldFile(file="fold-1.safetensors", sha256="0" * 64)
        spec = BundleSpec(
            name="tiny",
            encoder="mit_b0",
            folds=(fold,),
            threshold=job.threshold,
            licence="none",
            trained_on="nothing",
        )
        model = spec, Loaded(job.network_of())
    for owner, name, stage in (
        (pyramid, "resize", "resize"),
        (pyramid, "shrink", "resize"),
        (reads.PatchReader, "read", "read"),
        (canvas.ProbabilityMap, "write", "write"),
        (pipeline, "mean_and_spread", "write"),
        (pipeline, "outline", "outline"),
        (one_slide, "join", "outline"),
        (one_slide, "export_polygons", "export"),
        (export, "keep_thumbnail", "export"),
        (look, "_seen", "tissue"),
        (recipes, "open_slide", "open"),
    ):
        job.timed(owner, name, stage)
    options = MapOptions(
        model=job.bundle or "tiny", device="cpu", folds=1, threads=job.reader_threads, slide_mpp=job.mpp
    )
    batch = Batch(Path(job.out), options, PolygonOptions(), model=model)

    def run() -> None:
        (outcome,) = batch.run([SlideInput(Path(job.slide), "slide")], lambda *_: None)
        if outcome.manifest is None:
            sys.exit(f"wsiseg failed: {outcome.reason}")
        seconds = outcome.manifest.seconds
        job.found |= {"patches": outcome.manifest.counts.patches, "network_s": seconds["network"]}
        job.found |= {"device_idle_s": seconds["device idle"], "blocks_s": seconds["blocks"]}

    return run


def careful_script(job: Job) -> Run:
    """What a careful user writes: patch by patch, the whole map in memory, contours at the end."""
    import cv2  # noqa: PLC0415 - the extra bench
    import openslide  # noqa: PLC0415

    predict = job.network_of()

    def run() -> None:
        wsi = openslide.OpenSlide(job.slide)
        width, height = wsi.dimensions
        factor, margin, side = job.factor, job.margin, round(job.input_px * job.factor)
        canvas = np.zeros((round(height / factor), round(width / factor)), np.float32)
        for x, y in job.cores:
            corner = round(x - margin * factor), round(y - margin * factor)
            region = np.asarray(wsi.read_region(corner, 0, (side, side)))
            rgb = np.where(region[..., 3:] > 0, region[..., :3], 255).astype(np.uint8)
            patch = cv2.resize(rgb, (job.input_px, job.input_px), interpolation=cv2.INTER_AREA)
            prob = predict(patch[None])[0]
            top, left, core = round(y / factor), round(x / factor), job.input_px - 2 * margin
            kept = canvas[top : top + core, left : left + core]
            kept[:] = prob[margin:, margin:][: kept.shape[0], : kept.shape[1]]
        found, _ = cv2.findContours(
            (canvas >= job.threshold).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        features = [
            {
                "type": "Feature",
                "properties": {},
                "geometry": {"type": "Polygon", "coordinates": [(one[:, 0] * factor).tolist()]},
            }
            for one in found
        ]
        written = json.dumps({"type": "FeatureCollection", "features": features})
        (Path(job.out) / "tumor.geojson").write_text(written)

    return run


def tiatoolbox(job: Job) -> Run:
    """TIAToolbox's semantic segmentor, to QuPath's JSON; it finds tissue by its own mask (2.1)."""
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig  # noqa: PLC0415
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor  # noqa: PLC0415
    from tiatoolbox.models.models_abc import ModelABC  # noqa: PLC0415

    predict = job.network_of()

    class Model(ModelABC):  # type: ignore[misc]
        def forward(self, *_: Any) -> None:
            """Not used: ``infer_batch`` does it all."""

        @staticmethod
        def infer_batch(_model: Any, batch_data: Any, *, device: str = "cpu") -> Any:
            del device
            prob_BYX = predict(np.asarray(batch_data).astype(np.uint8))
            return np.stack([1 - prob_BYX, prob_BYX], axis=-1)

        @staticmethod
        def postproc(image: Any) -> Any:
            return image.argmax(axis=-1).astype(np.uint8)

    core = job.input_px - 2 * job.margin
    seen = [{"units": "mpp", "resolution": job.mpp * job.factor}]
    config = IOSegmentorConfig(
        input_resolutions=seen,
        output_resolutions=seen,
        patch_input_shape=(job.input_px, job.input_px),
        patch_output_shape=(job.input_px, job.input_px),
        stride_shape=(core, core),
        save_resolution=seen[0],
    )
    segmentor = SemanticSegmentor(model=Model(), batch_size=4, num_workers=0, device="cpu", verbose=False)

    def run() -> None:
        segmentor.run(
            images=[Path(job.slide)],
            ioconfig=config,
            patch_mode=False,
            auto_get_mask=True,
            save_dir=Path(job.out) / "result",
            output_type="qupath",
            overwrite=True,
        )

    return run


def lazyslide(job: Job) -> Run:
    """LazySlide's tissue, tiles and semantic segmentation, and its shapes as GeoJSON (0.13)."""
    import lazyslide  # noqa: PLC0415
    from lazyslide_models.base import SegmentationOutput  # noqa: PLC0415
    from wsidata import open_wsi  # noqa: PLC0415

    predict = job.network_of()

    class Model:
        def to(self, *_: Any) -> "Model":
            return self

        def get_transform(self) -> None:
            return None

        def segment(self, image: Any) -> Any:
            prob_BYX = predict(image.numpy())
            return SegmentationOutput(probability_map=np.stack([1 - prob_BYX, prob_BYX], axis=1))

    def run() -> None:
        wsi = open_wsi(job.slide, store=None)
        lazyslide.pp.find_tissues(wsi)
        lazyslide.pp.tile_tissues(
            wsi,
            job.input_px,
            stride_px=job.input_px - 2 * job.margin,
            mpp=job.mpp * job.factor,
            slide_mpp=job.mpp,
            background_filter=False,
            edge=True,
        )
        lazyslide.seg.semantic(
            wsi, Model(), transform=torch.from_numpy, device="cpu", threshold=job.threshold, pbar=False
        )
        (Path(job.out) / "tumor.geojson").write_text(wsi["anatomical_structures"].to_json())

    return run


CONTENDERS: dict[str, Callable[[Job], Run]] = {
    "wsiseg": wsiseg,
    "careful-script": careful_script,
    "tiatoolbox": tiatoolbox,
    "lazyslide": lazyslide,
}


def tree() -> tuple[float, float]:
    """Processor seconds of this process and its children, and the most memory each has had, in MB."""
    own = os.times()
    cpu, memory = own.user + own.system + own.children_user + own.children_system, 0.0
    for folder in [Path("/proc/self"), *map(Path, _children())]:
        try:
            status, stat = (folder / "status").read_text(), (folder / "stat").read_text()
        except OSError:  # it has ended
            continue
        memory += next((int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line), 0) / 1024
        if folder.name != "self":
            user, system = stat.rpartition(")")[2].split()[11:13]
            cpu += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return cpu, memory


def _children() -> list[str]:
    found = [task.read_text().split() for task in Path("/proc/self/task").glob("*/children")]
    return [f"/proc/{number}" for numbers in found for number in numbers]


def main() -> None:
    """Run the contender named first on the job in the file named second."""
    name, file = sys.argv[1:]
    job = Job(**json.loads(Path(file).read_text()))
    run = CONTENDERS[name](job)
    cpu, memory = tree()
    start = time.perf_counter()
    run()
    wall, (cpu_after, peak) = time.perf_counter() - start, tree()
    took = {"wall": wall, "cpu": cpu_after - cpu, "peak_mb": peak, "over_imports_mb": peak - memory}
    print(json.dumps({**took, **job.found, "stages": job.stages}), flush=True)
    os._exit(0)  # some rivals' threads outlive their work by minutes


if __name__ == "__main__":
    main()
