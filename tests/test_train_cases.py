"""Reading labelled images: every layout, and every complaint at once."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import DataError
from wsiseg.train.cases import Case, read_cases, read_mask, read_rgb


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pair(root: Path, name: str, *, tumour: bool = True, size: tuple[int, int] = (6, 8)) -> Path:
    image = root / "task1" / "colon" / "image" / name
    save(image, np.full((*size, 3), 200, np.uint8))
    mask = np.zeros(size, np.uint8)
    mask[1:3] = 255 if tumour else 0
    save(root / "task1" / "colon" / "mask" / name, mask)
    return image


def manifest(root: Path, rows: list[dict[str, object]]) -> None:
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("high", [1, 255])
def test_masks_of_any_kind_say_the_same(tmp_path: Path, channels: int, high: int) -> None:
    truth = np.array([[0, 1], [1, 0]], bool)
    values = truth.astype(np.uint8) * np.uint8(high)
    save(tmp_path / "m.png", values if channels == 1 else np.dstack([values] * 3))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png") > 0, truth)


def test_a_masks_alpha_channel_is_no_tumour(tmp_path: Path) -> None:
    save(tmp_path / "m.png", np.dstack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 255, np.uint8)]))
    assert not read_mask(tmp_path / "m.png").any()


def test_transparency_is_white(tmp_path: Path) -> None:
    save(tmp_path / "i.png", np.zeros((2, 2, 4), np.uint8))
    assert (read_rgb(tmp_path / "i.png") == 255).all()


def test_the_plain_layout_needs_no_manifest(tmp_path: Path) -> None:
    pair(tmp_path, "b.png", tumour=False)
    pair(tmp_path, "a.png")
    found = read_cases(tmp_path, image_mpp=0.5)
    assert [(c.key, c.task, c.domain, c.mpp, c.mpp_is, c.empty) for c in found] == [
        ("task1/colon/image/a.png", "task1", "colon", 0.5, "assumed", False),
        ("task1/colon/image/b.png", "task1", "colon", 0.5, "assumed", True),
    ]


def test_a_manifest_gives_resolution_and_patient(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    row = {"task": "t", "domain": "d", "image": "task1/colon/image/a.png", "mask": "task1/colon/mask/a.png"}
    manifest(tmp_path, [{**row, "mpp": 0.62, "patient_id": "p4", "dataset": "GlaS"}])
    (found,) = read_cases(tmp_path, image_mpp=0.5)
    assert (found.mpp, found.group, found.task) == (0.62, ("GlaS", "p4"), "t")


def test_every_bad_case_is_named_in_one_error(tmp_path: Path) -> None:
    pair(tmp_path, "good.png")
    (tmp_path / "task1" / "colon" / "mask" / "lone.png").unlink(missing_ok=True)
    save(tmp_path / "task1" / "colon" / "image" / "lone.png", np.zeros((4, 4, 3), np.uint8))
    pair(tmp_path, "sizes.png")
    save(tmp_path / "task1" / "colon" / "mask" / "sizes.png", np.zeros((3, 3), np.uint8))
    cut = pair(tmp_path, "cut.png", size=(60, 60))
    cut.write_bytes(cut.read_bytes()[:-40])
    pair(tmp_path, "text.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        read_cases(tmp_path, image_mpp=0.5)
    said = str(caught.value)
    assert said.startswith("4 of 5 cases")
    for name, reason in (("lone", "missing"), ("sizes", "3×3"), ("cut", "decoded"), ("text", "decoded")):
        line = next(line for line in said.splitlines() if f"image/{name}.png:" in line)
        assert reason in line
    assert "good" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [({"mpp": "unknown"}, "line 2"), ({"mpp": -1}, "its mpp is -1"), ({"mask": ""}, "directory")],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    pair(tmp_path, "a.png")
    row = {"task": "t", "domain": "d", "image": "task1/colon/image/a.png", "mask": "x.png", "mpp": 0.5}
    manifest(tmp_path, [{**row, **change}])
    with pytest.raises(DataError, match=said):
        read_cases(tmp_path, image_mpp=0.5)


def test_a_case_that_is_listed_twice_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    row: dict[str, object] = {"task": "t", "domain": "d", "image": "task1/colon/image/a.png", "mpp": 0.5}
    row["mask"] = "task1/colon/mask/a.png"
    manifest(tmp_path, [{**row, "patient_id": patient} for patient in "pq"])
    with pytest.raises(DataError, match=r"image/a\.png: the manifest lists it more than once"):
        read_cases(tmp_path, image_mpp=0.5)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    manifest(tmp_path, [{"task": "t", "domain": "d", "image": "a", "mask": "b"}])
    with pytest.raises(DataError, match="no column 'mpp'"):
        read_cases(tmp_path, image_mpp=0.5)


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_folder_says_what_was_expected(tmp_path: Path, made: bool) -> None:  # a parameter
    with pytest.raises(DataError, match="<task>/<domain>/image"):
        read_cases(tmp_path if made else tmp_path / "none", image_mpp=0.5)


def test_the_real_patches_are_read(shared: Path) -> None:
    found: tuple[Case, ...] = read_cases(shared / "data", image_mpp=0.5)
    assert len(found) == 1149
    assert sum(c.empty for c in found if c.task == "task1") == 84
