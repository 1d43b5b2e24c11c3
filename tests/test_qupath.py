import gzip
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import GeoJSONError
from wsiseg.qupath import RULES, check, problems

UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
OTHER = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
RING = [[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]
FAR = [[20, 0], [28, 0], [28, 8], [20, 8], [20, 0]]
BOWTIE = [[0, 0], [8, 8], [8, 0], [0, 8], [0, 0]]
GOOD: dict[str, Any] = {
    "type": "Feature",
    "id": UUID,
    "geometry": {"type": "Polygon", "coordinates": [RING]},
    "properties": {
        "objectType": "annotation",
        "name": "a name",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {"Area mm^2": 0.5, "count": 3},
        "metadata": {"source": "wsiseg"},
    },
}


def feature(at: str = "", value: Any = None) -> dict[str, Any]:
    """The good feature with one value put at a dotted path, or taken out where it is ``...``."""
    changed = deepcopy(GOOD)
    *path, last = at.split(".")
    place = changed
    for key in path:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


def polygon(*rings: Any) -> dict[str, Any]:
    return feature("geometry", {"type": "Polygon", "coordinates": list(rings)})


def several(*parts: Any) -> dict[str, Any]:
    return feature("geometry", {"type": "MultiPolygon", "coordinates": list(parts)})


def color(value: Any) -> dict[str, Any]:
    return feature("properties.classification", {"name": "Gland", "color": value})


def comb(teeth: int) -> list[list[int]]:
    points = [[x, (x % 2) * 5] for x in range(teeth)]
    return [*points, [teeth - 1, 9], [0, 9], points[0]]


HOLES = [[[x, 1], [x, 2], [x + 1, 2], [x + 1, 1], [x, 1]] for x in range(1, 2999, 2)]

BAD: list[tuple[str, Any]] = [
    ("collection", {"type": "Topology"}),
    ("collection", {"type": "FeatureCollection"}),
    ("collection", {"type": "FeatureCollection", "features": None}),
    ("collection", "text"),
    ("feature", [None]),
    ("feature", [[GOOD]]),
    ("null", feature("id", None)),
    ("null", feature("properties.name", None)),
    ("null", feature("properties", None)),
    ("null", feature("geometry", None)),
    ("type", feature("id", [UUID])),
    ("type", feature("properties", [])),
    ("type", feature("properties.name", {})),
    ("geometry", feature("geometry", ...)),
    ("geometry", feature("geometry", {"type": "Circle", "coordinates": [0, 0]})),
    ("geometry", feature("geometry", [RING])),
    ("geometry-collection", feature("geometry", {"type": "GeometryCollection", "geometries": []})),
    ("coordinates", polygon([[0, 0], [8, "0"], [8, 8], [0, 0]])),
    ("coordinates", polygon([[0, 0], [8, None], [8, 8], [0, 0]])),
    ("coordinates", polygon([[0, 0], [8, True], [8, 8], [0, 0]])),
    ("coordinates", polygon([[0, 0], [8], [8, 8], [0, 0]])),
    ("coordinates", polygon(0, 0)),
    ("coordinates", feature("geometry", {"type": "Polygon"})),
    ("coordinates", feature("geometry", {"type": "Point", "coordinates": []})),
    ("coordinates", several(RING)),
    ("open-ring", polygon(RING[:-1])),
    ("open-ring", polygon([[0, 0], [8, 0], [0, 0]])),
    ("open-ring", polygon(RING, [[1, 1], [1, 2], [2, 2]])),
    ("one-part", several([RING])),
    ("invalid", polygon(BOWTIE)),
    ("invalid", polygon(RING, FAR)),
    ("invalid", several([RING], [RING])),
    ("classification", feature("properties.classification", {"name": "Tumor"})),
    ("classification", feature("properties.classification", {"color": [200, 0, 0]})),
    ("classification", feature("properties.classification", None)),
    ("classification", feature("properties.classification", "Tumor")),
    ("colour", color(-3670016)),
    ("colour", color("#c80000")),
    ("colour", color(None)),
    ("colour", color([200, 0])),
    ("colour", color([200, 0, "0"])),
    ("measurement", feature("properties.measurements", {"Area": "0.5"})),
    ("measurement", feature("properties.measurements", {"Area": None})),
    ("measurement", feature("properties.measurements", {"Area": True})),
    ("measurement", feature("properties.measurements", [{"name": "Area", "value": "0.5"}])),
    ("empty", []),
    ("empty", {"type": "FeatureCollection", "features": []}),
    ("id", feature("id", "region-1")),
    ("id", feature("id", 7)),
    ("id", feature("id", "{" + UUID + "}")),
    ("same-id", [GOOD, GOOD]),
    ("same-id", [GOOD, feature("id", UUID.upper())]),
    ("zero-area", polygon([[0, 0], [8, 0], [4, 0], [0, 0]])),
    ("zero-area", polygon([[0, 0], [0.005, 0], [0.005, 0.005], [0, 0]])),
    ("zero-area", polygon()),
    ("lattice", polygon([[0, 0], [8.123, 0], [8, 8], [0, 0]])),
    ("colour-range", color([0.8, 0.0, 0.0])),
    ("colour-range", color([256, 0, 0])),
    ("known-class", feature("properties.classification", {"name": "Tumor", "color": [0, 0, 255]})),
    ("misplaced", feature("objectType", "annotation")),
    ("misplaced", feature("measurements", {"Area": 1})),
    ("misplaced", feature("properties.score", 1)),
    ("metadata", feature("properties.metadata", {"count": 3})),
    ("metadata", feature("properties.metadata", "text")),
    ("metadata", feature("properties.measurements", 7)),
    ("large", polygon(comb(200_001))),
    ("large", polygon([[0, 0], [3000, 0], [3000, 3], [0, 3], [0, 0]], *HOLES)),
]


def rules(document: Any) -> set[str]:
    return {problem.rule for problem in problems(document)}


def collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.mark.parametrize(("rule", "bad"), BAD, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(BAD)])
def test_a_file_that_breaks_one_rule_is_told_that_rule_only(rule: str, bad: Any) -> None:
    assert rules(bad) - {"lattice"} | {rule} == {rule}
    assert rule in rules(bad)


def test_every_rule_has_a_file_that_breaks_it() -> None:
    assert {rule for rule, _ in BAD} == set(RULES)


@pytest.mark.parametrize(
    "good",
    [
        GOOD,
        [GOOD],
        collection(GOOD, feature("id", OTHER)),
        {**collection(GOOD), "wsiseg": {"anything": None}},
        feature("id", ...),
        feature("properties", ...),
        feature("properties.name", ...),
        feature("properties.measurements", [{"name": "Area", "value": 0.5}]),
        polygon([[0.25, 0], [8.5, 0, 1], [8.01, 8], [0.25, 0]]),
        polygon(RING, [[2, 2], [2, 4], [4, 4], [2, 2]]),
        several([RING], [FAR]),
        feature("geometry", {"type": "Point", "coordinates": [1, 2]}),
        feature("geometry", {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}),
        feature("geometry", {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}),
        feature("geometry", {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]]]}),
        feature("properties.classification", {"name": "Tumor: Review", "color": [255, 170, 0]}),
    ],
)
def test_what_qupath_imports_as_written_has_no_problem(good: Any) -> None:
    assert problems(good) == []


def test_every_feature_that_breaks_an_error_rule_is_named_and_warnings_are_counted() -> None:
    open_ring = {**polygon(RING[:-1]), "id": OTHER}
    shifted = [
        {**polygon([[0, 0], [8.123, 0], [8, 8], [0, 0]]), "id": f"{i:08x}{OTHER[8:]}"} for i in (1, 2, 3)
    ]
    found = problems(collection(GOOD, open_ring, *shifted, polygon(RING[:-1])))
    assert [(p.rule, p.feature) for p in found] == [
        ("open-ring", 1),
        ("open-ring", 5),
        ("same-id", 5),
        ("lattice", 2),
    ]
    assert str(found[0]).startswith(f"error: feature 1 ({OTHER}): a ring needs")
    assert "2 more features" in found[-1].message


def test_a_hole_outside_its_shell_is_told_with_its_place() -> None:
    (problem,) = problems(polygon(RING, FAR))
    assert "20 0" in problem.message


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
places = st.sampled_from(
    [
        "id",
        "geometry",
        "geometry.type",
        "geometry.coordinates",
        "properties",
        *(f"properties.{k}" for k in GOOD["properties"]),
    ]
)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3)
rings = st.lists(st.lists(numbers, min_size=2, max_size=3), max_size=6).map(lambda ring: ring + ring[:1])


@given(json)
def test_no_json_makes_the_check_fail(document: Any) -> None:
    read = orjson.loads(orjson.dumps(document))
    problems(read)
    problems(collection(read))


@given(places, json)
def test_no_value_in_a_feature_makes_the_check_fail(at: str, value: Any) -> None:
    problems(orjson.loads(orjson.dumps(feature(at, value))))


@given(st.lists(st.lists(rings, max_size=3), max_size=3))
def test_no_polygon_makes_the_check_fail(parts: Any) -> None:
    problems(several(*parts))


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.geojson.gz"])
def test_files_are_read_by_their_ending(tmp_path: Path, name: str) -> None:
    path, raw = tmp_path / name, orjson.dumps(collection(polygon(BOWTIE)))
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert [p.rule for p in check(path)] == ["invalid"]


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.geojson", b"{", "no JSON"),
        ("a.geojson", b"", "no JSON"),
        ("a.geojson", b'{"area": NaN}', "no JSON"),
        ("a.geojson", b"\xff\xfe", "no JSON"),
        ("a.geojson.gz", b"{}", "no whole gzip"),
        ("a.geojson.gz", gzip.compress(b"[]")[:-3], "no whole gzip"),
        ("a.zip", b"PK", "unpack"),
    ],
)
def test_a_file_that_is_no_json_is_refused_in_words(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(GeoJSONError, match=said):
        check(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GeoJSONError, match=r"absent\.geojson"):
        check(tmp_path / "absent.geojson")
