"""Every reader, run through the tests that any reader must pass."""

import re
import struct
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from PIL import Image

from wsiseg.errors import SlideReadError
from wsiseg.readers import open_slide
from wsiseg.testing.conformance import AlphaConformance, ReaderConformance, pyramid_of

Rgb = npt.NDArray[np.uint8]
PER_CM = 20_000
"""Pixels per cm of 0.5 µm."""


class TestOpenSlide(AlphaConformance):
    """A tiled TIFF pyramid, compressed without loss, which OpenSlide calls generic."""

    reader = "openslide"

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        with tifffile.TiffWriter(folder / "x.tif") as tiff:
            for number, level in enumerate(levels):
                tiff.write(
                    level,
                    tile=(256, 256),
                    compression="zlib",
                    photometric="rgb",
                    subfiletype=int(number > 0),
                    resolution=(PER_CM / self.factors[number],) * 2,
                    resolutionunit="CENTIMETER",
                    metadata=None,
                )
        return folder / "x.tif"

    def write_alpha(self, folder: Path, rgba_YX4: Rgb) -> Path:
        tifffile.imwrite(
            folder / "a.tif", rgba_YX4, tile=(256, 256), photometric="rgb", extrasamples=["unassalpha"]
        )
        return folder / "a.tif"


class TestJpegTiles(ReaderConformance):
    """A tiled TIFF pyramid of JPEG, which is decoded past OpenSlide."""

    reader = "openslide"
    tolerance = 5

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        with tifffile.TiffWriter(folder / "x.tif") as tiff:
            for number, level in enumerate(levels):
                tiff.write(
                    level,
                    tile=(128, 256),
                    compression="jpeg",
                    compressionargs={"level": 100, "outcolorspace": "rgb"},
                    photometric="rgb",
                    subfiletype=int(number > 0),
                    resolution=(PER_CM / self.factors[number],) * 2,
                    resolutionunit="CENTIMETER",
                    metadata=None,
                )
        return folder / "x.tif"


class TestTiffSlide(AlphaConformance):
    """An OME-TIFF whose lower levels are sub-directories, in strips."""

    reader = "tiffslide"

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        with tifffile.TiffWriter(folder / "x.ome.tif", ome=True) as tiff:
            about = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} | {
                f"PhysicalSize{axis}Unit": "µm" for axis in "XY"
            }
            options: dict[str, Any] = {"rowsperstrip": 64, "compression": "zlib", "photometric": "rgb"}
            tiff.write(levels[0], subifds=len(levels) - 1, metadata=about, **options)
            for level in levels[1:]:
                tiff.write(level, subfiletype=1, **options)
        return folder / "x.ome.tif"

    def write_alpha(self, folder: Path, rgba_YX4: Rgb) -> Path:
        tifffile.imwrite(folder / "a.tif", rgba_YX4, photometric="rgb", extrasamples=["unassalpha"])
        return folder / "a.tif"


def write_ome_zarr(
    path: Path, levels: list[Rgb], factors: tuple[int, ...], *, axes: str, version: str
) -> Path:
    """An OME-Zarr image of 0.5 µm in the axes asked for."""
    kept = [axis for axis in axes if axis in "yxc"]
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, (level, factor) in enumerate(zip(levels, factors, strict=True)):
        chunks = tuple({"y": 256, "x": 256, "c": 3}.get(axis, 1) for axis in axes)
        stored = level.transpose(["yxc".index(axis) for axis in kept])
        stored = np.expand_dims(stored, [at for at, axis in enumerate(axes) if axis not in kept])
        group.create_array(str(number), data=stored, chunks=chunks, compressors=None)
        scale = [0.5 * factor if axis in "yx" else 1.0 for axis in axes]
        datasets.append(
            {"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    kinds = {"t": "time", "c": "channel"}
    about = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": "micrometer"} if axis in "zyx" else {})
        for axis in axes
    ]
    image: dict[str, Any] = {"axes": about, "datasets": datasets, "name": "x"}
    if version == "0.4":
        group.attrs.update({"multiscales": [image | {"version": "0.4"}]})
    else:
        group.attrs.update({"ome": {"version": version, "multiscales": [image]}})
    return path


class ZarrConformance(ReaderConformance):
    reader = "zarr"
    axes = "tczyx"
    version = "0.4"

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        return write_ome_zarr(folder / "x.zarr", levels, self.factors, axes=self.axes, version=self.version)

    def cut(self, path: Path, keep: float) -> None:
        """Cut every chunk short; a folder has no end of its own."""
        files = [
            one for one in path.rglob("*") if one.is_file() and not one.name.startswith((".", "zarr.json"))
        ]
        assert len(files) > 5
        for file in files:
            file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])


class TestZarr04(ZarrConformance):
    """OME-Zarr 0.4 in zarr v2."""


class TestZarr05(ZarrConformance):
    """OME-Zarr 0.5 in zarr v3."""

    axes = "czyx"
    version = "0.5"


class TestZarrInterleaved(ZarrConformance):
    axes = "yxc"
    version = "0.5"


class TestPng(AlphaConformance):
    reader = "image"
    factors: ClassVar[tuple[int, ...]] = (1,)

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        Image.fromarray(levels[0]).save(folder / "x.png", dpi=(50_800, 50_800))
        return folder / "x.png"

    def write_alpha(self, folder: Path, rgba_YX4: Rgb) -> Path:
        Image.fromarray(rgba_YX4).save(folder / "a.png")
        return folder / "a.png"


class TestJpeg(ReaderConformance):
    reader = "image"
    factors: ClassVar[tuple[int, ...]] = (1,)
    tolerance = 4

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        Image.fromarray(levels[0]).save(folder / "x.jpg", quality=100, subsampling=0, dpi=(50_800, 50_800))
        return folder / "x.jpg"


def jpeg(rgb_YX3: Rgb) -> bytes:
    buffer = BytesIO()
    Image.fromarray(rgb_YX3).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def write_kfb(
    path: Path, levels: list[Rgb], factors: tuple[int, ...], *, scan: int = 20, mpp: float = 0.5
) -> Path:
    """A KFB of the layout that kfbslide 0.3.4 reads: header, macro, tiles, index."""
    side, macro = 256, jpeg(levels[-1][:64, :64])
    tiles, index = b"", b""
    for level, factor in zip(levels, factors, strict=True):
        for y in range(0, level.shape[0], side):
            for x in range(0, level.shape[1], side):
                tile = level[y : y + side, x : x + side]
                data = jpeg(tile)
                height, width, _ = tile.shape
                index += struct.pack("<4xIIIIf8xI28x", x, y, width, height, scan / factor, len(data))
                tiles += data
    header_end, macro_end = 4 + 88 + 4, 4 + 44 + 4
    start = header_end + macro_end + len(macro) + len(tiles)
    height, width, _ = levels[0].shape
    header = struct.pack(
        "<4s4xfIIII4s4xIqIIQQf8xI",
        *(b"KFB", 1.6, len(index) // 64, height, width, scan, b"JPEG", 0, 0, header_end, 0),
        *(start + len(index), start, mpp, side),
    )
    about = struct.pack("<4xII4xII20x", 64, 64, len(macro), macro_end)
    sections = b"".join(
        bytes([0xF1, number, 0xEE, 0xEE]) + payload + bytes([0xFF, number, 0xEE, 0xEE])
        for number, payload in ((1, header), (2, about))
    )
    path.write_bytes(sections + macro + tiles + index)
    return path


class TestKfb(ReaderConformance):
    """A drawn KFB through the real kfbslide."""

    reader = "kfb"
    tolerance = 5

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        return write_kfb(folder / "x.kfb", levels, self.factors)

    def test_a_damaged_tile_is_refused_and_no_other_picture_taken_in_its_place(self, tmp_path: Path) -> None:
        """Kfbslide searches the bytes around it for the beginning of one."""
        path = self.write(tmp_path, pyramid_of(*self.size, self.factors))
        content = path.read_bytes()
        tiles = [found.start() for found in re.finditer(rb"\xff\xd8\xff", content)]
        path.write_bytes(content[: tiles[2]] + bytes(3) + content[tiles[2] + 3 :])
        with open_slide(path, reader=self.reader) as slide, pytest.raises(SlideReadError, match=r"x\.kfb"):
            slide.read(slide.info.extent, (self.size[1], self.size[0]))


class StubSdpc:
    """opensdpc 1.0.0's slide as its source has it: RGB pictures, places rounded down, a head of C structs."""

    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file, np.load(file) as stored:
            self._levels = [stored[name] for name in sorted(stored.files)]
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in self._levels)
        self.level_downsamples = tuple(2.0**number for number in range(len(self._levels)))
        self.scan_magnification = 20
        head = SimpleNamespace(contents=SimpleNamespace(ruler=0.5, rate=20, scale=0.5))
        self.sdpc = SimpleNamespace(contents=SimpleNamespace(picHead=head))

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        x, y = (int(at / self.level_downsamples[level]) for at in location)
        w, h = size
        return Image.fromarray(np.ascontiguousarray(self._levels[level][y : y + h, x : x + w]))

    def close(self) -> None:
        assert self._levels, "the C library ends the process when a slide is closed twice"
        self._levels = []


class TestSdpc(ReaderConformance):
    """A stub of opensdpc: its C library is closed and its files cannot be made here."""

    reader = "sdpc"

    @pytest.fixture(autouse=True)
    def _stub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        library = ModuleType("opensdpc")
        library.OpenSdpc = StubSdpc  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "opensdpc", library)
        monkeypatch.setattr("wsiseg.readers.sdpc_reader.version", lambda _: "1.0.0")

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        with (folder / "x.sdpc").open("wb") as file:
            np.savez(file, **{str(number): level for number, level in enumerate(levels)})  # type: ignore[arg-type]
        return folder / "x.sdpc"


STRANGER = """
from pathlib import Path

import numpy as np

from wsiseg.readers.levels import Facts, Level, Raw


class Levels:
    @staticmethod
    def knows(path):
        return path.suffix == ".npz"

    def __init__(self, path):
        with path.open("rb") as file, np.load(file) as stored:
            self.levels = [stored[name] for name in sorted(stored.files)]
        sizes = tuple(Level(level.shape[1], level.shape[0]) for level in self.levels)
        self.facts = Facts("stranger 1.2", "npz", sizes, None, (0.5, 0.5), "npz", None)

    def read_level(self, level, box):
        if not self.levels:
            raise OSError("closed")
        x, y, w, h = box
        return Raw(self.levels[level][y : y + h, x : x + w])

    def close(self):
        self.levels = []
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package, installed for the length of a test, that adds a reader by an entry point."""
    place = tmp_path / "site"
    about = place / "stranger-1.2.dist-info"
    about.mkdir(parents=True)
    (place / "stranger_reader.py").write_text(STRANGER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[wsiseg.readers]\nstranger = stranger_reader:Levels\n")
    monkeypatch.syspath_prepend(str(place))
    return about


@pytest.mark.usefixtures("stranger")
class TestStranger(ReaderConformance):
    """A reader that another package adds."""

    reader = "stranger"

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        np.savez(folder / "x.npz", **{str(number): level for number, level in enumerate(levels)})  # type: ignore[arg-type]
        return folder / "x.npz"
