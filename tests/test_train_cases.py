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


@pytest.mark.parametrize(
    ("values", "name", "said"),
    [
        ([0, 7, 128, 254], "m.png", r"values 0, 7, 128, 254: save it with 0 \(no tumour\) and 255"),
        ([0, 1, 255], "m.png", "values 0, 1, 255"),
        ([0, 65535], "m.png", "values 0, 65535"),
        (range(100, 116), "m.png", "values 100, 101, 102, 103, 104, 105 and 10 more"),
        ([0, 0, 255, 0], "m.jpg", "as PNG, for JPEG changes values"),
    ],
)
def test_a_mask_of_other_values_is_refused(tmp_path: Path, values: list[int], name: str, said: str) -> None:
    array = np.array([[*values], [*values][::-1]], np.uint16 if max(values) > 255 else np.uint8)
    save(tmp_path / name, array)
    with pytest.raises(DataError, match=said):
        read_mask(tmp_path / name)


def test_every_channel_of_a_masks_colours_counts(tmp_path: Path) -> None:
    save(tmp_path / "m.png", np.full((2, 2, 3), (255, 128, 0), np.uint8))
    with pytest.raises(DataError, match="values 0, 128, 255"):
        read_mask(tmp_path / "m.png")


def test_a_mask_of_single_bits_is_read(tmp_path: Path) -> None:
    truth = np.array([[0, 1], [1, 0]], bool)
    save(tmp_path / "m.png", truth)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png") > 0, truth)


def test_an_image_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "i.png", np.full((2, 2), 4000, np.uint16))
    with pytest.raises(DataError, match=r"more than 8 bits a channel .* save it as RGB with 8 bits"):
        read_rgb(tmp_path / "i.png")


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
    [
        ({"mpp": "unknown"}, "line 2: its mpp is 'unknown', expected a number"),
        ({"mpp": -1}, "its mpp is -1"),
        ({"mask": ""}, "line 2: mask must not be empty"),
        ({"task": "", "domain": " "}, "line 2: task and domain must not be empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    pair(tmp_path, "a.png")
    row = {"task": "t", "domain": "d", "image": "task1/colon/image/a.png", "mask": "x.png", "mpp": 0.5}
    manifest(tmp_path, [{**row, **change}])
    with pytest.raises(DataError, match=said):
        read_cases(tmp_path, image_mpp=0.5)


def test_every_bad_row_is_named_with_its_line_beside_the_bad_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair(tmp_path, "a.png")
    pair(tmp_path, "b.png")
    rows = [
        "task,domain,image,mask,mpp,note",
        't,d,task1/colon/image/a.png,task1/colon/mask/a.png,x,"two',
        'lines"',
        "t,d",
        "t,d,task1/colon/image/a.png,task1/colon/mask/a.png,0.5,no, quotes",
        "",
        "t,d,task1/colon/image/b.png,task1/colon/mask/b.png,y,",
        "t,d,task1/colon/image/gone.png,task1/colon/mask/a.png,0.5,",
        "t,d,task1/colon/image/a.png,task1/colon/mask/a.png,0.5,good,",
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        read_cases(tmp_path, image_mpp=0.5)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("5 of 6 cases")
    for line, reason in zip(
        lines,
        (
            "manifest.csv, line 3: its mpp is 'x'",
            "manifest.csv, line 4: it has 2 values and the header 6 columns",
            "manifest.csv, line 5: it has more values than the header has columns",
            "manifest.csv, line 7: its mpp is 'y'",
            "task1/colon/image/gone.png: ",
        ),
        strict=True,
    ):
        assert line.strip().startswith(reason)
    assert not caplog.messages  # an image whose row cannot be read is not called forgotten


def scans(root: Path, *datasets: str | None) -> list[Case]:
    """Images of patient p1, each in a domain and a task of its own; None is no column."""
    rows: list[dict[str, object]] = []
    for i, dataset in enumerate(datasets):
        image, mask = (f"t{i}/scan{i}/{kind}/a.png" for kind in ("image", "mask"))
        save(root / image, np.full((4, 4, 3), 200, np.uint8))
        save(root / mask, np.zeros((4, 4), np.uint8))
        row = {"task": f"t{i}", "domain": f"scan{i}", "image": image, "mask": mask, "mpp": 0.5}
        rows.append({**row, "patient_id": "p1", **({} if dataset is None else {"dataset": dataset})})
    manifest(root, rows)
    return list(read_cases(root, image_mpp=0.5))


@pytest.mark.parametrize("dataset", [None, "", "GlaS"])
def test_a_patient_is_one_in_every_domain_and_task_of_a_data_set_or_of_none(
    tmp_path: Path, dataset: str | None
) -> None:
    one, two = scans(tmp_path, dataset, dataset)
    assert one.group == two.group
    assert [case.dataset for case in (one, two)] == ([dataset] * 2 if dataset else ["scan0", "scan1"])


def test_patients_of_two_data_sets_stay_two(tmp_path: Path) -> None:
    one, two = scans(tmp_path, "GlaS", "BCSS")
    assert one.group != two.group


def test_a_patient_with_a_data_set_in_some_rows_only_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 of 3 .*\n.*scan1/image/a\.png: patient p1 has no dataset .* BCSS, GlaS"
    ):
        scans(tmp_path, "GlaS", "", "BCSS")


def test_images_that_a_manifest_forgets_are_warned_of_once_a_domain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        pair(tmp_path, name)
    (tmp_path / "task1" / "colon" / "image" / "notes.txt").write_text("no image")
    save(tmp_path / "task1" / "lung" / "image" / "unspoken.png", np.zeros((4, 4), np.uint8))
    row = {"task": "t", "domain": "d", "image": "task1/colon/image/a.png", "mask": "task1/colon/mask/a.png"}
    manifest(tmp_path, [{**row, "mpp": 0.5}])
    assert len(read_cases(tmp_path, image_mpp=0.5)) == 1
    (said,) = caplog.messages
    assert said.startswith("t/d: images that manifest.csv does not list are left out: 2 (b.png, c.png)")


def test_images_and_masks_in_one_folder_are_no_forgotten_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "all" / "a.png", np.full((4, 4, 3), 200, np.uint8))
    save(tmp_path / "all" / "a_mask.png", np.zeros((4, 4), np.uint8))
    manifest(
        tmp_path, [{"task": "t", "domain": "d", "image": "all/a.png", "mask": "all/a_mask.png", "mpp": 0.5}]
    )
    assert len(read_cases(tmp_path, image_mpp=0.5)) == 1
    assert not caplog.messages


def test_files_that_are_left_out_of_folders_are_warned_of_once_a_domain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "b.png", "c.bmp"):
        pair(tmp_path, name)
    folder = tmp_path / "task1" / "colon"
    (folder / "image" / "b.png").unlink()
    for hidden in (".DS_Store", "Thumbs.db"):
        (folder / "image" / hidden).write_text("hidden")
    assert len(read_cases(tmp_path, image_mpp=0.5)) == 1
    other, lone = caplog.messages
    assert other.startswith(
        "task1/colon: files in image that are no PNG, JPEG or TIFF are left out: 1 (c.bmp)"
    )
    assert lone.startswith("task1/colon: masks without an image of their name are left out: 1 (b.png)")


def test_a_manifest_without_commas_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("task;domain;image;mask;mpp\n")
    with pytest.raises(DataError, match="has one column, 'task;domain;image;mask;mpp': save it with commas"):
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


def test_the_real_patches_are_read(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    found: tuple[Case, ...] = read_cases(shared / "data", image_mpp=0.5)
    assert len(found) == 1149
    assert sum(c.empty for c in found if c.task == "task1") == 84
    assert not caplog.messages
