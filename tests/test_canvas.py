import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ome_zarr_models.v05 import Image

from wsiseg.canvas import ProbabilityMap, halved
from wsiseg.errors import CanvasError, OutputError
from wsiseg.geometry import Box, Canvas, Scale
from wsiseg.grid import Grid
from wsiseg.ledger import Done, Ledger

GRID = Grid(width=1500, height=700, patch=192, margin=32, per_block=2)
SETTINGS = {"block": 2, "weights": "abc"}


def new_map(folder: Path, grid: Grid = GRID) -> ProbabilityMap:
    return ProbabilityMap.create(
        folder / "probability.zarr", grid, scale=Scale(1.5, x=30, y=60), mpp=0.5, about={"model": "test"}
    )


def noise(grid: Grid) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (2, grid.height, grid.width), np.uint8)


def fill(
    to: ProbabilityMap, map_CYX: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
) -> dict[tuple[int, int], str]:
    return {block.index: to.write(block, map_CYX[:, *block.core.within(to.grid.extent)]) for block in to.grid}


def test_what_is_written_block_by_block_is_read_back(tmp_path: Path) -> None:
    to, map_CYX = new_map(tmp_path), noise(GRID)
    hashes = fill(to, map_CYX)
    assert np.array_equal(to.read(GRID.extent), map_CYX)
    again = ProbabilityMap.open(to.path)
    assert again.grid == GRID
    assert all(again.holds(block, hashes[block.index]) for block in GRID)


def test_every_pyramid_level_is_the_whole_map_halved(tmp_path: Path) -> None:
    to, map_CYX = new_map(tmp_path), noise(GRID)
    fill(to, map_CYX)
    assert to.depth == 3
    expected = map_CYX
    for level in range(to.depth):
        _, height, width = expected.shape
        assert np.array_equal(to.read(Box[Canvas](0, 0, width, height), level), expected)
        expected = halved(expected)


@given(arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9))))
def test_halving_is_the_mean_of_four_rounded_half_up(
    map_CYX: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    _, height, width = map_CYX.shape
    half = halved(map_CYX)
    for y in range(half.shape[1]):
        for x in range(half.shape[2]):
            rows, columns = (
                np.minimum([2 * y, 2 * y + 1], height - 1),
                np.minimum([2 * x, 2 * x + 1], width - 1),
            )
            four = map_CYX[:, rows][:, :, columns].astype(float).mean(axis=(1, 2))
            assert np.array_equal(half[:, y, x], np.floor(four + 0.5))


def test_a_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    to = new_map(tmp_path)
    hashes = fill(to, noise(GRID))
    chunk = to.path / "0" / "c" / "0" / "1" / "2"
    content = bytearray(chunk.read_bytes())
    for position in range(0, len(content), len(content) // 20):
        content[position] ^= 4
        chunk.write_bytes(content)
        assert not to.holds(GRID.block(1, 2), hashes[1, 2])
        with pytest.raises(CanvasError, match="damaged"):
            to.read(GRID.block(1, 2).core)
        content[position] ^= 4
    chunk.write_bytes(content)
    assert to.holds(GRID.block(1, 2), hashes[1, 2])


def test_a_lost_chunk_is_not_taken_for_a_blank_one(tmp_path: Path) -> None:
    to = new_map(tmp_path)
    hashes = fill(to, noise(GRID))
    (to.path / "0" / "c" / "0" / "0" / "0").unlink()
    assert not to.holds(GRID.block(0, 0), hashes[0, 0])


def test_a_blank_block_leaves_no_file_and_is_still_held(tmp_path: Path) -> None:
    to, block = new_map(tmp_path), GRID.block(0, 1)
    sha256 = to.write(block, np.zeros((2, block.core.h, block.core.w), np.uint8))
    assert not (to.path / "0" / "c").exists()
    assert to.holds(block, sha256)


@settings(max_examples=6)
@given(st.integers(0, 2), st.integers(0, 10**6))
def test_chunks_are_byte_for_byte_those_that_zarr_writes(blank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    map_CYX = rng.integers(0, 5, (2, GRID.height, GRID.width), np.uint8)
    map_CYX[:blank] = 0
    with tempfile.TemporaryDirectory() as folder:
        ours, zarrs = new_map(Path(folder) / "ours"), new_map(Path(folder) / "zarr's")
        fill(ours, map_CYX)
        for level in range(ours.depth):
            height, width = -(-GRID.height // 2**level), -(-GRID.width // 2**level)
            array = zarr.open_array(zarrs.path / str(level), mode="r+")
            array[...] = ours.read(Box[Canvas](0, 0, width, height), level)
        held = {one.relative_to(ours.path): one.read_bytes() for one in files(ours.path)}
        assert held == {one.relative_to(zarrs.path): one.read_bytes() for one in files(zarrs.path)}


def files(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file()]


def test_a_block_that_is_blank_the_second_time_takes_its_chunk_away(tmp_path: Path) -> None:
    to, block = new_map(tmp_path), GRID.block(0, 1)
    blank = np.zeros((2, block.core.h, block.core.w), np.uint8)
    to.write(block, blank + 1)
    sha256 = to.write(block, blank)
    assert to.holds(block, sha256)
    assert [one for one in files(to.path) if one.name != "zarr.json"] == []


def test_a_chunk_that_cannot_be_written_leaves_the_one_before_and_no_stray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, block = new_map(tmp_path), GRID.block(0, 1)
    sha256 = to.write(block, np.ones((2, block.core.h, block.core.w), np.uint8))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            to.write(block, np.full((2, block.core.h, block.core.w), 2, np.uint8))
    assert to.holds(block, sha256)
    assert list(to.path.rglob("*.partial")) == []


def test_the_map_is_a_valid_ome_zarr_image_in_the_right_place(tmp_path: Path) -> None:
    to = new_map(tmp_path)
    to.write_tissue(np.eye(30, dtype=bool), scale=Scale(24.0, x=30, y=60), mpp=0.5)
    image = Image.from_zarr(zarr.open_group(to.path, mode="r"))
    assert image.labels is not None
    (image_scale, translation) = image.model_dump()["attributes"]["ome"]["multiscales"][0]["datasets"][1][
        "coordinateTransformations"
    ]
    assert image_scale["scale"] == [1.0, 1.5, 1.5]
    assert translation["translation"] == [0.0, (60 + 1.5 - 0.5) * 0.5, (30 + 1.5 - 0.5) * 0.5]
    tissue = to.tissue()
    assert tissue is not None
    assert np.array_equal(tissue[0], np.eye(30, dtype=bool))
    assert tissue[1] == 24 * 0.5
    chunk = next(path for path in (to.path / "labels/tissue/0/c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(CanvasError, match="tissue is damaged"):
        to.tissue()


def test_a_folder_that_is_no_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CanvasError, match="not a wsiseg probability map"):
        ProbabilityMap.open(tmp_path / "nothing")


@settings(max_examples=60)
@given(st.integers(0, 4), st.integers(0, 400), st.booleans())
def test_a_ledger_cut_or_damaged_anywhere_keeps_the_lines_before(count: int, cut: int, flip: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        lines = [Done(n, n + 1, f"{n:064x}", 4) for n in range(count)]
        with Ledger(path, SETTINGS) as ledger:
            for line in lines:
                ledger.add(line)
        whole = path.read_bytes()
        cut = min(cut, len(whole) - 1)
        path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :] if flip else whole[:cut])
        kept = whole[:cut].count(b"\n") - 1
        with Ledger(path, SETTINGS) as ledger:
            assert list(ledger.done.values()) == lines[: max(0, kept)]
            ledger.add(Done(99, 99, "f" * 64, 1))
        with Ledger(path, SETTINGS) as ledger:
            assert list(ledger.done.values()) == [*lines[: max(0, kept)], Done(99, 99, "f" * 64, 1)]


def test_a_ledger_of_other_settings_names_the_difference(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.jsonl", SETTINGS).close()
    with pytest.raises(CanvasError, match=r"weights.*--overwrite"):
        Ledger(tmp_path / "ledger.jsonl", {**SETTINGS, "weights": "xyz"})


def test_the_ledger_is_readable_by_a_person(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl", SETTINGS) as ledger:
        ledger.add(Done(3, 4, "a" * 64, 4))
    body = (tmp_path / "ledger.jsonl").read_text().splitlines()[1].rpartition(" ")[0]
    assert json.loads(body) == {"row": 3, "column": 4, "sha256": "a" * 64, "patches": 4}
