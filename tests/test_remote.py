"""A slide on a server is read in parts, and gives what it gives as a file."""

import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import numpy as np
import pytest
import tifffile

from wsiseg.canvas import ProbabilityMap
from wsiseg.cli_options import SLIDE
from wsiseg.errors import SlideOpenError
from wsiseg.inputs import find_slides, name_outputs
from wsiseg.location import Remote, located
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.readers import open_slide
from wsiseg.readers.preflight import preflight
from wsiseg.readers.remote import fingerprint_remote
from wsiseg.records import RunRecord
from wsiseg.run import Batch
from wsiseg.testing import DARKNESS, Darkness

pytest.importorskip("aiohttp", reason="the extra 'remote' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


class Files(BaseHTTPRequestHandler):
    """Serves files in parts, as object stores do."""

    folder: ClassVar[Path]
    parts: ClassVar[bool] = True
    served: ClassVar[list[int]] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file = self.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content, wanted = file.read_bytes(), self.headers.get("Range")
        start, stop, status = 0, len(content), 200
        if wanted and self.parts:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last) + 1 if last else stop, stop), 206
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        self.send_header("Accept-Ranges", "bytes" if self.parts else "none")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.served.append(stop - start)
            self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    Files.folder, Files.parts = tmp_path, True
    Files.served.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()
    SLIDES.clear()
    PREDICTORS.clear()


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """Purple squares on white; large enough that one is not fetched whole by chance."""
    path = tmp_path / "case 1.ome.tif"
    rgb = np.full((1500, 2000, 3), 245, np.uint8)
    noise = np.random.default_rng(0).integers(-30, 30, (900, 1100, 3))
    rgb[300:1200, 400:1500] = noise + np.array((130, 70, 140))
    metadata = {"axes": "YXS"}
    tifffile.imwrite(path, rgb, ome=True, tile=(256, 256), photometric="rgb", metadata=metadata)
    return path


def test_a_slide_on_a_server_has_the_pixels_and_the_map_it_has_as_a_file(
    server: str, slide: Path, tmp_path: Path
) -> None:
    where = Remote(f"{server}/case%201.ome.tif?signature=secret")
    with open_slide(where, mpp=0.5) as there, open_slide(slide, mpp=0.5, reader="tiffslide") as here:
        assert (there.info.name, there.info.mpp) == ("case 1.ome.tif", 0.5)
        assert there.info.reader == here.info.reader
        assert np.array_equal(
            there.read(there.info.bounds, (300, 400)), here.read(here.info.bounds, (300, 400))
        )
    maps = []
    for place, out in ((where, tmp_path / "there"), (slide, tmp_path / "here")):
        inputs = find_slides([place])
        batch = Batch(
            out, MapOptions(slide_mpp=0.5, reader="tiffslide"), PolygonOptions(), model=(DARKNESS, Darkness())
        )
        (outcome,) = batch.run(inputs, lambda *_: None)
        assert (outcome.status, outcome.reason) == ("done", "")
        canvas = ProbabilityMap.open(outcome.folder / "probability.zarr")
        maps.append(canvas.read(canvas.grid.extent))
        record = RunRecord(out, ["wsiseg", "segment", where.url], {})
        record.add(outcome)
        record.finish("complete")
    assert maps[0].any()
    assert np.array_equal(maps[0], maps[1])
    for file in (tmp_path / "there").rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes(), file


def test_the_fingerprint_is_of_the_content_and_its_version_and_fetches_little(
    server: str, slide: Path
) -> None:
    where = Remote(f"{server}/{slide.name}")
    first = fingerprint_remote(where)
    assert sum(Files.served) < 2 * (1 << 20) + 17 * (1 << 16)
    assert fingerprint_remote(where) == first
    content = bytearray(slide.read_bytes())
    content[100] ^= 1
    slide.write_bytes(content)
    assert fingerprint_remote(where) != first


def test_what_cannot_be_read_from_afar_is_one_sentence(server: str, slide: Path) -> None:
    where = Remote(f"{server}/{slide.name}")
    absent = Remote(f"{server}/absent.svs?signature=secret")
    for look in (open_slide, preflight):
        with pytest.raises(SlideOpenError, match=r"/absent\.svs is not there") as caught:
            look(absent)
        assert "secret" not in str(caught.value)
    with pytest.raises(SlideOpenError, match="only tiffslide reads from there"):
        open_slide(where, reader="openslide")
    with pytest.raises(SlideOpenError, match=r"cannot be read: .*gibberish"):
        open_slide("gibberish://host/a.svs")
    with pytest.raises(SlideOpenError, match=r"/a\.svs is not there"):
        open_slide("http://127.0.0.1:1/a.svs")
    slide.write_bytes(slide.read_bytes()[:-100_000])
    with pytest.raises(SlideOpenError, match=r"cut short|damaged"):
        preflight(where)
    slide.write_bytes(b"<html>no slide</html>")
    with pytest.raises(SlideOpenError, match=slide.name):
        preflight(where)


def test_a_server_that_gives_no_parts_is_refused(server: str, slide: Path) -> None:
    Files.parts = False
    with pytest.raises(SlideOpenError, match="not in parts"):
        open_slide(f"{server}/{slide.name}")


def test_urls_are_taken_as_they_are_and_shown_without_their_secrets(tmp_path: Path) -> None:
    url = "https://me:word@host:80/data//a.svs?token=xyz"
    assert SLIDE.convert(url, None, None) == Remote(url)
    assert SLIDE.convert("a.svs", None, None) == Path("a.svs")
    assert str(Remote(url)) == "https://host:80/data//a.svs"
    assert located("C:/a.svs") == Path("C:/a.svs")
    table = tmp_path / "list.csv"
    table.write_text(f"path,mpp\n{url},0.25\nb.svs,\n")
    first, second = find_slides([Remote(url)], slide_list=str(table))
    assert (first.path, first.name, first.mpp) == (Remote(url), "a", 0.25)
    assert second.path == tmp_path / "b.svs"
    assert name_outputs([Remote("http://h/x/a.svs"), Remote("http://h/y/a.svs")]) == ["x/a", "y/a"]
