"""The viewer's server half: who may ask, what can be asked for, and that pixels are the stored ones."""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import uvicorn
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from wsiseg.canvas import ProbabilityMap
from wsiseg.cli import main
from wsiseg.errors import OutputError, UsageError
from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.testing import ArraySlide
from wsiseg.view import app as app_module
from wsiseg.view.app import PAGE, make_app
from wsiseg.view.results import facts, look
from wsiseg.view.serve import serve
from wsiseg.view.sources import Sources, candidates, find
from wsiseg.view.tiles import TILE, levels, slide_tile

TOKEN = "a-token-of-the-test"  # noqa: S105
HOST = "http://127.0.0.1:8760"
LABEL_RGB = (10, 250, 30)


def client(out: Path, sources: Sources, *, host: str = HOST, token: str | None = TOKEN) -> TestClient:
    one = TestClient(make_app(out, TOKEN, sources), base_url=host, raise_server_exceptions=False)
    if token is not None:
        one.get("/", params={"token": token})
    return one


@pytest.fixture
def sources(results: Path) -> Iterator[Sources]:
    found = Sources(results)
    yield found
    found.close()


@pytest.fixture
def viewer(results: Path, sources: Sources) -> TestClient:
    return client(results, sources)


def key_of(viewer: TestClient, name: str = "slide") -> str:
    found = [one["key"] for one in viewer.get("/slides").json()["slides"] if one["name"] == name]
    return str(found[0])


def ready(viewer: TestClient, key: str) -> dict[str, str]:
    """The answer about the slide's file, once it is no longer being looked for."""
    for _ in range(600):
        said: dict[str, str] = viewer.get(f"/slides/{key}/source").json()
        if said["state"] != "looking":
            return said
        time.sleep(0.05)
    raise AssertionError(said)


def every_address(viewer: TestClient) -> list[str]:
    slide = f"/slides/{key_of(viewer)}"
    tails = ("", "/source", "/review", "/outlines", "/thumbnail.jpg", "/tiles/0/0_0.jpg", "/map/0/0_0")
    return [
        "/",
        "/slides",
        *(f"/page/{name}" for name in app_module.FILES),
        *(slide + tail for tail in tails),
    ]


# ---- who may ask


def test_without_the_token_nothing_is_answered(results: Path, viewer: TestClient, sources: Sources) -> None:
    addresses = every_address(viewer)
    ready(viewer, key_of(viewer))
    assert [viewer.get(one).status_code for one in addresses] == [200] * len(addresses)
    for stranger in (client(results, sources, token=None), client(results, sources, token=TOKEN + "x")):
        assert {stranger.get(one).status_code for one in addresses} == {403}
    stranger = client(results, sources, token=None)
    assert stranger.get("/", headers={"cookie": f"wsiseg={TOKEN}; other={TOKEN}"}).status_code == 403


def test_the_first_visit_leaves_a_cookie_and_no_token_in_the_address(results: Path, sources: Sources) -> None:
    visitor = client(results, sources, token=None)
    first = visitor.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8760", "10.0.0.5:8760", ""]
)
def test_a_request_that_names_another_host_is_refused(viewer: TestClient, host: str) -> None:
    assert viewer.get("/slides", headers={"host": host}).status_code == 403
    assert viewer.get("/", params={"token": TOKEN}, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8760", "localhost:9000", "LOCALHOST", "[::1]:8760"])
def test_every_name_of_this_machine_will_do_at_any_port(viewer: TestClient, host: str) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in viewer.cookies.items())
    assert viewer.get("/slides", headers={"host": host, "cookie": cookies}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_nothing_but_get_is_answered(viewer: TestClient, method: str) -> None:
    assert {viewer.request(method, one).status_code for one in every_address(viewer)} == {405}


def test_every_answer_forbids_what_is_not_from_here(viewer: TestClient) -> None:
    for address in [*every_address(viewer), "/nothing"]:
        headers = viewer.get(address).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert not any("http" in words or "*" in words or "unsafe" in words for words in policy.values())
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"


# ---- what can be asked for

ESCAPES = [
    "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "....//secret.txt",
    "..%5csecret.txt", "%252e%252e%252fsecret.txt", "slide/../../secret.txt", "/etc/passwd",
    "%2fetc%2fpasswd", "slide%00", "file:///etc/passwd",
]  # fmt: skip
PLACES = [
    "/{}", "/page/{}", "/slides/{}", "/slides/{}/outlines", "/slides/KEY/{}", "/slides/KEY/tiles/0/{}",
    "/page/openseadragon/{}",
]  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_path_leads_out_of_the_table(results: Path, viewer: TestClient, escape: str) -> None:
    (results.parent / "secret.txt").write_text("TOP SECRET root:x:0")
    key = key_of(viewer)
    for one in (escape, quote(str(results.parent / "secret.txt"), safe="")):
        for place in PLACES:
            answer = viewer.get(HOST + place.replace("KEY", key).format(one))
            assert answer.status_code in {400, 404}, place
            assert "root:x:0" not in answer.text


def test_links_that_lead_out_of_the_folder_are_refused(results: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    shutil.copytree(results, out)
    elsewhere.mkdir()
    names = ("tumor.geojson", "review.csv", "thumbnail.jpg", "probability.zarr")
    for name in names:
        (out / "slide" / name).rename(elsewhere / name)
        (out / "slide" / name).symlink_to(elsewhere / name)
    (out / "linked").symlink_to(results / "slide")
    viewer = client(out, Sources(out))
    key = key_of(viewer)
    for tail in ("", "/outlines", "/review", "/thumbnail.jpg", "/map/0/0_0"):
        answer = viewer.get(f"/slides/{key}{tail}")
        assert answer.status_code == 500
        assert "leads out of the output folder" in answer.json()["error"], tail
    linked = next(one for one in viewer.get("/slides").json()["slides"] if one["name"] == "linked")
    assert linked["status"] == "failed"
    assert viewer.get(f"/slides/{linked['key']}").status_code == 500
    (out / "pale" / "slide.json").rename(elsewhere / "slide.json")
    (out / "pale" / "slide.json").symlink_to(elsewhere / "slide.json")
    pale = next(one for one in viewer.get("/slides").json()["slides"] if one["name"] == "pale")
    assert pale["status"] == "failed"
    assert "leads out" in pale["note"]


def test_no_answer_shows_the_label_or_the_macro(viewer: TestClient) -> None:
    key = key_of(viewer)
    ready(viewer, key)
    seen = 0
    tiles = [f"tiles/{k}/{x}_{y}.jpg" for k in range(levels(1400, 1100)) for x in range(4) for y in range(4)]
    for tail in ("thumbnail.jpg", *tiles):
        answer = viewer.get(f"/slides/{key}/{tail}")
        if answer.status_code == 200:
            rgb_YX3 = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(np.int16)
            assert (np.abs(rgb_YX3 - LABEL_RGB).max(axis=-1) > 60).all(), tail
            seen += 1
    assert seen == 1 + 3 * 3 + 2 * 2 + 1
    assert viewer.get(f"/slides/{key}/label.jpg").status_code == 404


# ---- what is answered


def test_the_list_names_the_finished_the_failed_and_the_unfinished(viewer: TestClient) -> None:
    slides = viewer.get("/slides").json()["slides"]
    assert [(one["name"], one["status"]) for one in slides] == [
        ("pale", "done"), ("slide", "done"), ("broken", "failed"), ("begun", "unfinished"),
    ]  # fmt: skip
    assert slides[1]["regions"] == 3
    assert slides[1]["review"] == 1
    assert "empty" in slides[2]["note"]
    assert "not finished" in slides[3]["note"]
    assert viewer.get(f"/slides/{slides[2]['key']}").status_code == 500


@pytest.mark.parametrize(
    "bounds", [Box[L0](0, 0, 1400, 1100), Box[L0](37, 61, 1101, 513), Box[L0](5, 5, 512, 512)], ids=str
)
def test_tiles_put_together_are_the_slide_read_at_once(results: Path, bounds: Box[L0]) -> None:
    with open_slide(results.parent / "slides" / "slide.svs") as slide:
        for k in range(levels(bounds.w, bounds.h)):
            width, height = (-(-side // 2**k) for side in (bounds.w, bounds.h))
            whole_YX3 = slide.read(Box(bounds.x, bounds.y, width << k, height << k), (height, width))
            for y in range(0, height, TILE):
                for x in range(0, width, TILE):
                    tile_YX3 = slide_tile(slide, bounds, k, x // TILE, y // TILE)
                    assert np.array_equal(tile_YX3, whole_YX3[y : y + TILE, x : x + TILE])


def test_a_tile_shows_the_pixels_that_the_reader_gives(results: Path, viewer: TestClient) -> None:
    key = key_of(viewer)
    assert ready(viewer, key)["state"] == "ready"
    with open_slide(results.parent / "slides" / "slide.svs") as slide:
        for k, x, y, box in ((0, 1, 0, Box[L0](512, 0, 512, 512)), (1, 0, 1, Box[L0](0, 1024, 1024, 76))):
            size = (box.h >> k, box.w >> k)
            answer = viewer.get(f"/slides/{key}/tiles/{k}/{x}_{y}.jpg")
            shown_YX3 = np.asarray(Image.open(io.BytesIO(answer.content)))
            assert shown_YX3.shape[:2] == size
            apart = np.abs(shown_YX3.astype(int) - slide.read(box, size))
            assert apart.mean() < 4, "JPEG moves a few grey levels, another place moves many"


def test_tiles_of_the_map_put_together_are_the_stored_map(results: Path, viewer: TestClient) -> None:
    key = key_of(viewer)
    canvas = ProbabilityMap.open(results / "slide" / "probability.zarr")
    assert canvas.depth > 1
    assert canvas.grid.width > TILE
    for k in range(canvas.depth):
        width, height = (-(-side // 2**k) for side in (canvas.grid.width, canvas.grid.height))
        stored_CYX = canvas.read(Box(0, 0, width, height), k)
        assert len(np.unique(stored_CYX)) > 10
        for y in range(0, height, TILE):
            for x in range(0, width, TILE):
                answer = viewer.get(f"/slides/{key}/map/{k}/{x // TILE}_{y // TILE}")
                expected = stored_CYX[:, y : y + TILE, x : x + TILE]
                assert answer.content == expected.tobytes()


@pytest.mark.parametrize(
    "tail", ["tiles/0/9_0.jpg", "tiles/9/0_0.jpg", "map/0/0_9", "map/9/0_0", "map/0/-1_0", "tiles/0/x_0.jpg"]
)
def test_a_tile_that_is_not_there_is_not_found(viewer: TestClient, tail: str) -> None:
    key = key_of(viewer)
    ready(viewer, key)
    assert viewer.get(f"/slides/{key}/{tail}").status_code == 404


def test_outlines_are_the_file_for_qupath_packed_or_not(results: Path, viewer: TestClient) -> None:
    assert (
        viewer.get(f"/slides/{key_of(viewer)}/outlines").content
        == (results / "slide" / "tumor.geojson").read_bytes()
    )
    assert viewer.get(f"/slides/{key_of(viewer, 'pale')}/outlines").json()["features"] == []


def test_regions_come_in_the_order_of_review_csv(results: Path, viewer: TestClient) -> None:
    rows = viewer.get(f"/slides/{key_of(viewer)}/review").json()
    listed = (results / "slide" / "review.csv").read_text().splitlines()[1:]
    assert [row["id"] for row in rows] == [line.split(",")[1] for line in listed]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows[0]["disagreement"] > rows[1]["disagreement"] > rows[2]["disagreement"]


def test_the_facts_lay_map_and_outlines_on_the_bounds_of_the_slide(results: Path) -> None:
    entry = next(one for one in look(results).values() if one.name == "slide")
    said = facts(entry)
    assert (said["width"], said["height"], said["corner"]) == (1400, 1100, (0, 0))
    assert said["map"]["width"] * said["map"]["factor"] >= said["width"]
    assert said["threshold"] == 0.5
    assert said["review_above"] == 0.2


# ---- the slide's file


def test_the_slide_is_found_where_the_run_was_told_to_look(results: Path, viewer: TestClient) -> None:
    assert ready(viewer, key_of(viewer)) == {"state": "ready", "reason": ""}
    assert next(candidates("slide.svs", results, ())) == results.parent / "slides" / "slide.svs"


def moved(results: Path, tmp_path: Path) -> Path:
    """The results alone, without the record of where the slides were."""
    out = tmp_path / "elsewhere" / "results"
    shutil.copytree(results, out)
    for record in out.glob("run-*.json"):
        record.unlink()
    return out


def test_a_slide_that_has_moved_is_said_to_be_missing_and_found_where_the_user_says(
    results: Path, tmp_path: Path
) -> None:
    out = moved(results, tmp_path)
    entry = next(one for one in look(out).values() if one.name == "slide")
    lost = find(entry, out, ())
    assert lost.state == "absent"
    assert "slide.svs was not found; start the viewer with --slides" in lost.reason
    for place in (results.parent / "slides", results.parent, results.parent / "slides" / "slide.svs"):
        assert find(entry, out, (place,)).state == "ready"
    viewer = client(out, Sources(out))
    assert ready(viewer, entry.key)["state"] == "absent"
    answer = viewer.get(f"/slides/{entry.key}/tiles/0/0_0.jpg")
    assert answer.status_code == 500
    assert "was not found" in answer.json()["error"]
    assert viewer.get(f"/slides/{entry.key}/map/0/0_0").status_code == 200, "the map needs no slide"


def test_another_file_of_the_same_name_is_not_shown(results: Path, tmp_path: Path) -> None:
    out = moved(results, tmp_path)
    entry = next(one for one in look(out).values() if one.name == "slide")
    (tmp_path / "other").mkdir()
    shutil.copy(results.parent / "slides" / "pale.svs", tmp_path / "other" / "slide.svs")
    found = find(entry, out, (tmp_path / "other",))
    assert found.state == "absent"
    assert "not the file that was segmented" in found.reason
    assert find(entry, out, (tmp_path / "other", results.parent / "slides")).state == "ready"


@pytest.mark.parametrize("name", ["../slides/slide.svs", "/etc/passwd", "..", ".", "", "slides/slide.svs"])
def test_a_record_cannot_name_a_file_by_its_path(results: Path, name: str) -> None:
    assert list(candidates(name, results, (results.parent,))) == []


def test_no_more_than_a_few_slides_are_kept_open(
    results: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.view.sources.MOST_OPEN", 1)
    viewer = client(results, sources)
    for name in ("slide", "pale", "slide"):
        key = key_of(viewer, name)
        ready(viewer, key)
        assert viewer.get(f"/slides/{key}/tiles/0/0_0.jpg").status_code == 200
        assert list(sources._open) == [key]


# ---- the files of the page


def test_the_vendored_library_is_the_published_one_with_its_licence() -> None:
    folder = PAGE / "openseadragon"
    about = json.loads((folder / "VENDORED.json").read_text())
    assert set(about["sha256"]) == {path.name for path in folder.iterdir()} - {"VENDORED.json"}
    for name, sha256 in about["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    library = (folder / "openseadragon.min.js").read_text()
    assert f"openseadragon {about['version']}\n" in library
    assert app_module.OSD_STYLE.decode() in library, "the one rule that the policy lets it add"


def test_every_file_of_the_page_is_served_and_none_names_another_address() -> None:
    own = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()}
    assert own - set(app_module.FILES) == {"index.html", "openseadragon/VENDORED.json"}
    assert set(app_module.FILES) <= own
    for name in own:
        if not name.startswith("openseadragon/"):
            text = (PAGE / name).read_text()
            assert "http:" not in text
            assert "https:" not in text
            assert "url(" not in text


# ---- the command


def test_help_loads_neither_torch_nor_starlette() -> None:
    code = (
        "import sys\n"
        "from wsiseg.cli import main\n"
        "try: main(['view', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'starlette', 'uvicorn', 'zarr', 'openslide'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_cannot_be_shown_is_one_sentence(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str | Path) -> str:
        done = CliRunner().invoke(main, ["view", *map(str, arguments)])
        assert done.exit_code in {1, 2}
        assert done.output.count("\n") == 1
        return done.output

    with pytest.raises(OutputError):
        look(tmp_path)
    assert "holds no finished slide; give the folder that wsiseg segment wrote" in said(
        tmp_path, "--port", "0"
    )
    shutil.copy(results / "summary.csv", tmp_path)
    (tmp_path / "summary.csv").write_text("slide,status,reason\nbroken,failed,empty\n")
    assert "holds no finished slide (1 failed or not finished)" in said(tmp_path, "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "is in use; choose another with --port" in said(results, "--port", str(taken.getsockname()[1]))
    monkeypatch.setattr("wsiseg.cli_view.find_spec", lambda _: None)
    assert 'pip install "wsiseg[view]"' in said(results)


def test_the_viewer_listens_on_this_machine_alone_and_ctrl_c_ends_it(results: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "wsiseg", "view", str(results), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.startswith("Open http://127.0.0.1:")
    address = line.split()[1]
    port = int(address.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as asked:
        asked.sendall(b"GET /slides HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert asked.recv(100).startswith(b"HTTP/1.1 403")
    with pytest.raises(OSError, match=r"."):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "Traceback" not in errors


def test_a_token_is_new_for_every_viewer_and_hard_to_guess(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda _, sockets: sockets)
    for _ in range(2):
        serve(results, port=0, slides=(), tell=told.append)
    first, second = (address.split("token=")[1] for address in told)
    assert first != second
    assert min(len(first), len(second)) >= 40


def test_a_key_of_no_slide_is_not_found(viewer: TestClient) -> None:
    answer = viewer.get("/slides/0123456789abcdef")
    assert answer.status_code == 404
    assert "no such slide" in answer.json()["error"]
    with pytest.raises(UsageError):
        slide_tile(ArraySlide(np.zeros((9, 9, 3), np.uint8)), Box[L0](0, 0, 9, 9), 0, 1, 0)
