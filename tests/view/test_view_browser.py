"""The viewer in a real browser: what somebody sees and does, on a page that the real command serves."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

Browser = webdriver.Chrome
CHANCE_S = 300
"""How long a page may take on a busy machine before a test gives up on it."""
FIRST, SECOND, THIRD = (250, 300), (950, 275), (950, 850)
"""The middles of the drawn regions, in level-0 pixels; the folds disagree more from one to the next."""

# The stage as a test sees it: where a level-0 point is on the page, and what a layer shows there.
STAGE = """
const viewer = OpenSeadragon.getViewer(document.getElementById("slide"));
const point = (x, y) => viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(x / WIDTH, y / WIDTH), true);
const shown = (layer, x, y) => {
  const at = point(x, y);
  const canvas = document.querySelectorAll("#slide canvas.layer")[layer];
  const [x0, y0] = [at.x * devicePixelRatio, at.y * devicePixelRatio];
  return [...canvas.getContext("2d").getImageData(x0, y0, 1, 1).data];
};
""".replace("WIDTH", "1400")


def program(*names: str) -> str | None:
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chrome = program("chromium", "chromium-browser", "google-chrome")
    driver = program("chromedriver")
    if chrome is None or driver is None:
        pytest.skip("no browser: install Chromium and its driver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    one = webdriver.Chrome(options=options, service=Service(driver))
    yield one
    one.quit()


@contextmanager
def served(out: Path, *arguments: str) -> Iterator[str]:
    """The address of a viewer that runs in a process of its own."""
    command = [sys.executable, "-m", "wsiseg", "view", str(out), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().split()[1]
        finally:
            child.send_signal(signal.SIGINT)
            child.wait()


@pytest.fixture(scope="module")
def address(results: Path) -> Iterator[str]:
    with served(results) as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    visit(browser, address, "slide")
    return browser


def visit(browser: Browser, address: str, slide: str) -> None:
    browser.get("about:blank")
    browser.get(address)
    until(browser, "return document.querySelectorAll('#slides button').length > 0")
    browser.execute_script("location.hash = arguments[0]", slide)
    until(browser, f"return document.getElementById('slide').dataset.slide === {slide!r}")
    until(browser, "return ['ready', 'absent'].includes(document.getElementById('slide').dataset.source)")


def until(browser: Browser, script: str) -> Any:
    return WebDriverWait(browser, CHANCE_S, poll_frequency=0.1).until(lambda one: one.execute_script(script))


def logged(browser: Browser, kind: str) -> list[dict[str, Any]]:
    """What has been logged since it was last asked for."""
    found: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return found


def alpha(browser: Browser, layer: int, place: tuple[int, int]) -> int:
    return int(browser.execute_script(STAGE + "return shown(...arguments)", layer, *place)[3])


def slide_to(browser: Browser, control: str, value: float) -> None:
    browser.execute_script(
        "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
        "one.dispatchEvent(new Event('input'))",
        control,
        value,
    )


def centre(browser: Browser) -> tuple[float, float]:
    """The level-0 point in the middle of the stage when it has come to rest."""
    x, y = browser.execute_script(
        STAGE + "const at = viewer.viewport.getCenter(false); return [at.x * 1400, at.y * 1400]"
    )
    return x, y


def text(browser: Browser, element: str) -> str:
    return browser.find_element(By.ID, element).text


def press(browser: Browser, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def in_order(results: Path) -> list[dict[str, str]]:
    with (results / "slide" / "review.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_asks_nobody_else_and_complains_of_nothing(page: Browser) -> None:
    until(page, STAGE + "return shown(0, 250, 300)[3] > 0")
    asked = [
        message["params"]["request"]["url"]
        for entry in logged(page, "performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert any("/tiles/" in one for one in asked)
    assert any("/map/" in one for one in asked)
    assert [
        one for one in asked if not one.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
    ] == []
    assert [entry["message"] for entry in logged(page, "browser")] == []
    assert "token" not in page.current_url


def test_the_keyboard_steps_to_the_most_uncertain_region_first(page: Browser, results: Path) -> None:
    rows = in_order(results)
    assert [float(rows[0]["x_px"]), float(rows[0]["y_px"])] == pytest.approx(THIRD, abs=3)
    press(page, "n")
    assert centre(page) == pytest.approx(THIRD, abs=3)
    assert text(page, "which") == "Region 1 of 3"
    assert f"{float(rows[0]['disagreement']):.2f}, to review" in text(page, "measures")
    press(page, "n")
    assert centre(page) == pytest.approx(SECOND, abs=3)
    press(page, "n", "n")
    assert centre(page) == pytest.approx(FIRST, abs=3)
    assert text(page, "which") == "Region 3 of 3"
    press(page, "p")
    assert centre(page) == pytest.approx(SECOND, abs=3)
    page.find_element(By.ID, "only").click()
    press(page, "p")
    assert text(page, "which") == "Region 1 of 3"
    press(page, "n")
    assert text(page, "which") == "Region 1 of 3", "the other regions need no review"


def test_the_threshold_changes_what_is_shown_without_asking_the_server(page: Browser) -> None:
    until(page, STAGE + "return shown(0, 250, 300)[3] > 0 && shown(0, 950, 850)[3] > 0")
    assert alpha(page, 0, (600, 900)) == 0, "pale ground is below the threshold"
    logged(page, "performance")
    slide_to(page, "least", 0.81)
    assert [alpha(page, 0, place) for place in (FIRST, SECOND, THIRD)] == [255, 0, 0]
    slide_to(page, "least", 0.02)
    assert [alpha(page, 0, place) for place in (FIRST, SECOND, THIRD, (600, 900))] == [255] * 4
    slide_to(page, "opacity", 20)
    assert page.execute_script("return document.querySelector('canvas.layer').style.opacity") == "0.2"
    asked = [one for one in logged(page, "performance") if "requestWillBeSent" in one["message"]]
    assert [one["message"] for one in asked if "/map/" in one["message"]] == []


def test_the_disagreement_can_be_laid_over_the_slide_instead(page: Browser) -> None:
    until(page, STAGE + "return shown(0, 250, 300)[3] > 0")
    page.find_element(By.CSS_SELECTOR, "input[name=channel][value='1']").click()
    until(page, STAGE + "return shown(0, 950, 850)[3] > 0")
    assert [alpha(page, 0, place) for place in (FIRST, SECOND)] == [0, 0]
    assert "disagreement" in text(page, "least-name")
    press(page, "m")
    assert alpha(page, 0, THIRD) == 0
    press(page, "m")
    assert alpha(page, 0, THIRD) == 255


def test_an_outline_runs_where_the_region_ends_and_tells_its_measurements(
    page: Browser, results: Path
) -> None:
    last = in_order(results)[2]
    edge = (400, 300)
    until(page, STAGE + "return shown(0, 250, 300)[3] > 0")  # what the pointer is told is there
    red, green, blue, opaque = page.execute_script(STAGE + "return shown(1, ...arguments)", *edge)
    assert (red > 150, green < 120, blue < 120, opaque > 200) == (True, True, True, True)
    assert alpha(page, 1, FIRST) == 0
    at = page.execute_script(
        STAGE + "const at = point(...arguments), box = viewer.element.getBoundingClientRect();"
        "return [box.left + at.x, box.top + at.y]", *FIRST
    )  # fmt: skip
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": at[0], "y": at[1]})
    until(page, "return !document.getElementById('label').hidden")
    assert text(page, "label").splitlines() == [
        "Tumor, region 3",
        f"Area {float(last['area_mm2']):.3f} mm²",
        f"Mean probability {float(last['mean_probability']):.2f}",
        f"Disagreement {float(last['disagreement']):.2f}",
    ]
    assert text(page, "here").startswith("Here: probability 0.84, disagreement 0.0")
    press(page, "o")
    assert alpha(page, 1, edge) == 0


def test_the_scale_bar_is_as_long_as_it_says(page: Browser) -> None:
    width = page.execute_script("return document.getElementById('bar').getBoundingClientRect().width")
    per_px = page.execute_script(STAGE + "return 1400 / (point(1400, 0).x - point(0, 0).x)")
    number, unit = text(page, "length").split()
    assert unit == "µm"
    assert float(number) == pytest.approx(width * per_px * 0.5, rel=0.01)


def test_the_list_is_walked_with_the_keyboard_and_says_what_failed(page: Browser) -> None:
    assert text(page, "counts") == "2 finished, 1 failed, 1 not finished"
    assert "broken.svs is empty (0 bytes)" in text(page, "slides")
    current = page.find_element(By.CSS_SELECTOR, "#slides button[aria-current=true]")
    assert current.get_attribute("tabindex") == "0"
    assert current.text == "slide\n0.084 mm², 3 regions, 1 to review"
    assert len(page.find_elements(By.CSS_SELECTOR, "#slides button[tabindex='0']")) == 1, "one stop for Tab"
    page.execute_script("arguments[0].focus()", current)
    press(page, Keys.ARROW_UP, Keys.ENTER)
    until(page, "return document.getElementById('slide').dataset.slide === 'pale'")
    until(page, "return !document.getElementById('none').hidden")
    assert text(page, "none") == "No tumour was outlined on this slide."
    assert text(page, "found").startswith("No tumour outlined: no region of 0 µm² or more reaches 0.5")
    press(page, "]")
    until(page, "return document.getElementById('slide').dataset.slide === 'slide'")


def test_a_slide_that_has_moved_is_told_of_and_its_map_is_shown_on_the_overview(
    browser: Browser, results: Path, tmp_path: Path
) -> None:
    out = tmp_path / "alone" / "results"
    shutil.copytree(results, out, ignore=shutil.ignore_patterns("run-*.json"))
    with served(out) as address:
        visit(browser, address, "slide")
        until(browser, STAGE + "return shown(0, 250, 300)[3] > 0")
        assert "slide.svs was not found; start the viewer with --slides" in text(browser, "source")
        assert "on the overview only" in text(browser, "source")
        press(browser, "n")
        assert centre(browser) == pytest.approx(THIRD, abs=3)
    with served(out, "--slides", str(results.parent / "slides")) as address:
        visit(browser, address, "slide")
        assert text(browser, "source") == ""


def test_the_whole_slide_stays_in_sight_when_the_stage_gets_lower(
    browser: Browser, results: Path, tmp_path: Path
) -> None:
    """As it does on the first view, when words above it come late; `pale` is as wide as high."""
    out = tmp_path / "alone" / "results"
    shutil.copytree(results, out, ignore=shutil.ignore_patterns("run-*.json"))
    with served(out) as address:
        visit(browser, address, "pale")
        assert "was not found" in text(browser, "source")
        assert in_sight(browser) == pytest.approx(1, abs=0.01)
        browser.set_window_size(1440, 620)
        try:
            assert in_sight(browser) == pytest.approx(1, abs=0.01)
            press(browser, "+")
            browser.set_window_size(1440, 560)
            assert in_sight(browser) < 0.9, "who has gone closer stays there"
            press(browser, "0")
            assert in_sight(browser) == pytest.approx(1, abs=0.01)
        finally:
            browser.set_window_size(1440, 900)


# Outlines of their own: a ring, an island in its hole, a circle of 40,001 vertices; a view of 800 × 600 px.
OUTLINES = """
const answer = arguments[0];
const square = (from, to) => [[from, from], [to, from], [to, to], [from, to], [from, from]];
const round = (turn) => [500 + 400 * Math.cos(2 * Math.PI * turn), 500 + 400 * Math.sin(2 * Math.PI * turn)];
const circle = Array.from({length: 40001}, (_, i) => round(i / 40000));
const feature = (id, ...coordinates) => ({id, geometry: {type: "Polygon", coordinates}, properties: {}});
const features = [feature("ring", square(10, 90), square(30, 70)), feature("island", square(40, 60)),
  feature("circle", circle)];
const frame = (scale, x, y) => ({ratio: 2, scale, corner: [x, y], size: [800, 600]});
import("/page/outlines.js").then(({ Outlines }) => {
  const outlines = new Outlines();
  Object.assign(outlines.canvas, {width: 800, height: 600});
  outlines.show({features}, [0, 0], new Set(["island"]));
  answer((() => { BODY })());
});
"""


def test_the_region_under_the_pointer_is_the_smallest_and_none_in_a_hole(page: Browser) -> None:
    places = [[20, 20], [35, 35], [50, 50], [5, 5], [500, 500]]
    body = f"return {places}.map(([x, y]) => outlines.at(x, y)?.id ?? null)"
    found = page.execute_async_script(OUTLINES.replace("BODY", body))
    assert found == ["ring", None, "island", None, "circle"]


def test_a_region_that_the_list_has_to_review_is_orange_whatever_its_class(page: Browser) -> None:
    body = "return outlines.regions.map((one) => one.color)"
    found = page.execute_async_script(OUTLINES.replace("BODY", body))
    assert found == ["rgb(200 0 0)", "rgb(255 170 0)", "rgb(200 0 0)"]


def test_an_outline_of_many_vertices_is_drawn_to_the_pixel_and_moves_with_the_slide(page: Browser) -> None:
    body = """
    outlines.draw(frame(0.25, 3, 5));
    const kept = outlines.byId.get("circle").drawn.pieces.reduce((sum, piece) => sum + piece.vertices, 0);
    const pen = outlines.canvas.getContext("2d");
    const inked = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => round(i / 8))
      .map(([x, y]) => pen.getImageData(3 + x / 4, 5 + y / 4, 1, 1).data[3]);
    outlines.follow(frame(0.5, 40, -60));
    const moved = new DOMMatrix(outlines.canvas.style.transform);
    const { x, y } = moved.transformPoint(new DOMPoint((3 + 100 / 4) / 2, (5 + 200 / 4) / 2));
    outlines.draw(frame(0.5, 40, -60));
    return [kept, inked, [2 * x, 2 * y], outlines.canvas.style.transform];
    """
    kept, inked, place, left = page.execute_async_script(OUTLINES.replace("BODY", body))
    assert 400 < kept < 2000, "a circle of 628 device pixels"
    assert min(inked) > 200
    assert place == pytest.approx([40 + 100 / 2, -60 + 200 / 2]), "where level-0 (100, 200) is drawn then"
    assert left == ""


def in_sight(browser: Browser) -> float:
    """How much of the height of a square slide is on the stage, once this has settled."""
    until(
        browser,
        STAGE + "return viewer.viewport.getContainerSize().y === viewer.container.clientHeight && "
        "viewer.viewport.getBounds().equals(viewer.viewport.getBounds(true))",
    )
    script = (
        "const [top, bottom] = [point(0, 0).y, point(0, 1400).y];"
        "return (Math.min(bottom, viewer.container.clientHeight) - Math.max(0, top)) / (bottom - top)"
    )
    return float(browser.execute_script(STAGE + script))
