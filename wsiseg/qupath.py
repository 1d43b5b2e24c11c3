"""Will QuPath import this file? The rules of its real parser, and a check against them.

One feature that breaks an ``error`` rule makes QuPath refuse the whole file; what breaks a
``warning`` rule is imported, but not as written. The rules were found by running the
parsers of QuPath 0.5.1 to 0.8-dev; where versions differ the strictest one counts.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import orjson

from wsiseg.errors import GeoJSONError
from wsiseg.shapes import Found, Shapes

__all__ = ["RULES", "Problem", "check", "problems"]

Severity = Literal["error", "warning"]

RULES: dict[str, tuple[Severity, str]] = {
    "collection": ("error", "the file must be a FeatureCollection, a Feature or a list of Features"),
    "feature": ("error", "every feature must be an object"),
    "null": ("error", "id, name, properties and geometry must not be null; leave the key out"),
    "type": ("error", "id, name and objectType must be text, properties an object"),
    "geometry": ("error", "every feature needs a geometry of a type that QuPath knows"),
    "geometry-collection": ("error", "a GeometryCollection is refused since 0.6"),
    "coordinates": ("error", "coordinates must be lists of numbers, nested as the geometry's type says"),
    "open-ring": ("error", "a ring needs at least four positions and must end where it began"),
    "one-part": ("error", "a MultiPolygon of one part is refused by 0.5.1; write a Polygon"),
    "invalid": ("error", "rings must not cross, holes lie inside their shell, parts not overlap"),
    "classification": ("error", "a class is written as name and colour, both"),
    "colour": ("error", "a class's colour is a list of red, green and blue"),
    "measurement": ("error", "every measurement must be a number"),
    "empty": ("warning", "there is no feature; QuPath says 'No objects found'"),
    "id": ("warning", "an id that is no UUID is replaced by a random one"),
    "same-id": ("warning", "two features have the same id"),
    "zero-area": ("warning", "a polygon without area becomes an empty rectangle at (0, 0)"),
    "lattice": ("warning", "coordinates are moved to multiples of 0.01 px"),
    "colour-range": ("warning", "colours are whole numbers from 0 to 255; fractions of 1 become black"),
    "known-class": ("warning", "QuPath keeps its own colour for a class that it knows"),
    "misplaced": ("warning", "only what is inside properties, and known to QuPath, is read"),
    "metadata": ("warning", "metadata is a map from text to text, measurements a map; the rest is dropped"),
    "large": ("warning", "QuPath gets slow: over 200 000 vertices, or over 1 000 holes in one polygon"),
}

KNOWN_CLASSES = {
    "Tumor": [200, 0, 0],
    "Stroma": [150, 200, 150],
    "Immune cells": [160, 90, 160],
    "Necrosis": [50, 50, 50],
    "Other": [255, 200, 0],
    "Region*": [0, 0, 180],
    "Ignore*": [180, 180, 180],
}
_READ = ("objectType", "classification", "measurements", "metadata", "name", "color", "isLocked")
_PROPERTIES = {*_READ, "isMissing", "object_type", "type", "childObjects", "children"}
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BRIEF = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule that is broken: by which feature (its index and id), and how.

    Every feature that breaks an ``error`` rule is named; of those that break a ``warning``
    rule the first is, with their number in the message.
    """

    rule: str
    severity: Severity
    feature: int | None
    id: str | None
    message: str

    def __str__(self) -> str:
        where = "" if self.feature is None else f"feature {self.feature}"
        where += f" ({self.id})" if self.id else ""
        return f"{self.severity}: {where}{': ' if where else ''}{self.message} [{self.rule}]"


def check(path: Path) -> list[Problem]:
    """The problems that QuPath would have with a ``.geojson``, ``.json`` or ``.geojson.gz`` file.

    No problem of severity ``error`` means that it will be imported.

    Raises:
        GeoJSONError: the file cannot be read, or is no JSON.
    """
    if path.suffix == ".zip":
        msg = f"{path} is an archive, and inside one QuPath swallows errors: unpack it and check the file"
        raise GeoJSONError(msg)
    try:
        raw = path.read_bytes()
        return problems(orjson.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        msg = f"{path} is no whole gzip file ({error}); write or fetch it again"
        raise GeoJSONError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror}); give a .geojson, .json or .geojson.gz file"
        raise GeoJSONError(msg) from error
    except orjson.JSONDecodeError as error:
        msg = f"{path} is no JSON ({error}); QuPath would refuse it"
        raise GeoJSONError(msg) from error


def problems(document: Any) -> list[Problem]:
    """The problems of a document that was read from JSON, errors first, whatever it is.

    >>> [str(p) for p in problems({"type": "FeatureCollection", "features": []})]
    ["warning: there is no feature; QuPath says 'No objects found' [empty]"]
    """
    match document:
        case list():
            features = document
        case {"type": "FeatureCollection", "features": list(features)}:
            pass
        case {"type": "Feature"}:
            features = [document]
        case _:
            return [Problem("collection", "error", None, None, RULES["collection"][1])]
    found = list(_broken(features))
    return [*_errors(found, features), *_warnings(found, features)]


def _errors(found: list[tuple[str, int | None, str]], features: list[Any]) -> Iterator[Problem]:
    for rule, index, detail in found:
        if RULES[rule][0] == "error":
            yield _problem(rule, index, detail, features)


def _warnings(found: list[tuple[str, int | None, str]], features: list[Any]) -> Iterator[Problem]:
    for rule, (severity, _) in RULES.items():
        hits = [(index, detail) for name, index, detail in found if name == rule]
        if severity == "warning" and hits:
            index, detail = hits[0]
            more = len({index for index, _ in hits}) - 1
            yield _problem(rule, index, detail + (f", and {more} more features" if more else ""), features)


def _problem(rule: str, index: int | None, detail: str, features: list[Any]) -> Problem:
    severity, sentence = RULES[rule]
    feature = None if index is None else features[index]
    given = feature.get("id") if isinstance(feature, dict) else None
    identity = given if isinstance(given, str) else None
    return Problem(rule, severity, index, identity, f"{sentence}: {detail}" if detail else sentence)


def _broken(features: list[Any]) -> Iterator[tuple[str, int | None, str]]:
    """Every broken rule, the index of the feature that breaks it, and how it does."""
    if not features:
        yield "empty", None, ""
    shapes, ids = Shapes(), set[str]()
    for index, feature in enumerate(features):
        if not isinstance(feature, dict):
            yield "feature", index, _brief(feature)
            continue
        for rule, detail in chain(
            _identity(feature, ids), _properties(feature), shapes.add(index, feature.get("geometry", ...))
        ):
            yield rule, index, detail
    yield from shapes.broken()


def _identity(feature: dict[str, Any], ids: set[str]) -> Found:
    identity = feature.get("id", ...)
    if identity is None:
        yield "null", "id"
    elif isinstance(identity, dict | list):
        yield "type", "id"
    elif identity is not ...:
        if not (isinstance(identity, str) and _UUID.fullmatch(identity)):
            yield "id", _brief(identity)
        elif identity.lower() in ids:
            yield "same-id", identity
        else:
            ids.add(identity.lower())
    for key in _READ:
        if key in feature:
            yield "misplaced", f"{key} beside properties"


def _properties(feature: dict[str, Any]) -> Found:
    properties = feature.get("properties", {})
    if not isinstance(properties, dict):
        yield "null" if properties is None else "type", "properties"
        return
    yield from _texts(properties)
    if not properties.keys() <= _PROPERTIES:
        yield "misplaced", f"property {min(properties.keys() - _PROPERTIES)!r}"
    if "classification" in properties:
        yield from _classification(properties["classification"])
    if "measurements" in properties:
        yield from _measurements(properties["measurements"])
    metadata = properties.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        yield "metadata", "metadata"


def _texts(properties: dict[str, Any]) -> Found:
    for key in ("name", "objectType"):
        if key in properties and properties[key] is None:
            yield "null", key
        elif isinstance(properties.get(key), dict | list):
            yield "type", key


def _classification(given: Any) -> Found:
    if not isinstance(given, dict) or not {"name", "color"} <= given.keys():
        yield "classification", _brief(given)
        return
    name, color = given["name"], given["color"]
    if not isinstance(name, str):
        yield "classification", f"name {_brief(name)}"
    elif not (isinstance(color, list) and len(color) == len("RGB") and all(map(_number, color))):
        yield "colour", _brief(color)
    elif not all(isinstance(part, int) and 0 <= part <= 255 for part in color):  # noqa: PLR2004 -- 8 bits
        yield "colour-range", _brief(color)
    elif color != KNOWN_CLASSES.get(name, color):
        yield "known-class", f"{name} is {KNOWN_CLASSES[name]}, not {color}"


def _measurements(given: Any) -> Found:
    """A map of numbers; or, as QuPath before 0.4 wrote it, a list of ``{name, value}``."""
    if isinstance(given, dict):
        items = list(given.items())
    elif isinstance(given, list):
        items = [(m.get("name"), m.get("value")) if isinstance(m, dict) else (None, m) for m in given]
    else:
        yield "metadata", f"measurements {_brief(given)}"
        return
    for name, value in items:
        if not isinstance(name, str) or not _number(value):
            yield "measurement", f"{_brief(name)}: {_brief(value)}"


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _brief(value: Any) -> str:
    """A value as JSON, cut short."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"
