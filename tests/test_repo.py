"""Laws about the repository itself."""

import hashlib
import importlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import wsiseg
from wsiseg.bundle import load_spec, verify_files
from wsiseg.options import DEFAULT_BUNDLE

ROOT = Path(__file__).resolve().parents[1]

TOP_LEVEL = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "README.md",
    "models",
    "pyproject.toml",
    "scripts",
    "tests",
    "wsiseg",
}
LOCK_FILES = re.compile(r"(^|/)(.*\.lock|.*-lock\.(json|ya?ml)|pylock.*\.toml|constraints.*\.txt)$")
# Put together from halves, so that this file does not hold what it forbids.
FORBIDDEN = tuple(
    a + b
    for a, b in (
        ("pypi", ".org"),
        ("python", "hosted"),
        ("test.py", "pi"),
        ("index", "-url"),
        ("find", "-links"),
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/Us", "ers/"),
        ("/opt/", "pypi"),
        ("/opt/", "wheels"),
    )
)
MAX_LINES = 330
MAX_BYTES = 20_000_000


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """What git keeps of this checkout, as paths relative to its root."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: only a checkout can say which files are kept")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    paths = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert paths, "git keeps no file at all here"
    return paths


def texts(paths: list[str]) -> Iterator[tuple[str, str]]:
    for name in paths:
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def fenced(page: str) -> list[str]:
    """The lines inside a page's fenced blocks."""
    parts = re.split(r"^```.*\n", (ROOT / page).read_text(), flags=re.MULTILINE)
    return [line for block in parts[1::2] for line in block.splitlines()]


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(one for extra in extras.values() for one in extra)]


def test_the_top_level_holds_only_what_the_layout_names(tracked: list[str]) -> None:
    tops = {name.split("/")[0] for name in tracked}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


def test_no_lock_file_is_kept(tracked: list[str]) -> None:
    assert [name for name in tracked if LOCK_FILES.search(name)] == []


@pytest.mark.parametrize(
    "name", ["uv.lock", "poetry.lock", "sub/pylock.toml", "conda-lock.yml", "constraints.txt"]
)
def test_a_lock_file_is_known_by_its_name(name: str) -> None:
    assert LOCK_FILES.search(name)


def test_no_text_names_a_registry_or_a_place_of_one_machine(tracked: list[str]) -> None:
    found = [f"{name}: {word}" for name, text in texts(tracked) for word in FORBIDDEN if word in text]
    assert found == []


def test_no_kept_file_is_larger_than_20_megabytes(tracked: list[str]) -> None:
    assert [name for name in tracked if (ROOT / name).stat().st_size > MAX_BYTES] == []


def test_every_module_and_script_is_short_enough_to_read_at_once() -> None:
    files = [*(ROOT / "wsiseg").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_dependency_has_a_lower_bound_and_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    named = requirements()
    assert [one for one in named if not re.match(r"^[\w.-]+>=\d", one)] == []
    reasoned = {
        one for one in named for line in lines if re.match(rf'.*"{re.escape(one)}"[,\]]\s+# \S', line)
    }
    assert set(named) - reasoned == set()


def test_imports_go_in_one_direction_only() -> None:
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    child = [sys.executable, "-c", program]
    done = subprocess.run(child, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_changelog_has_an_entry_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(wsiseg.__version__)}\]", text, re.MULTILINE)


def test_the_citation_names_this_version() -> None:
    versions = re.findall(r"^version: [\"']?(.+?)[\"']?$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert versions == [wsiseg.__version__]


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / ".github" / "decisions").glob("*.md"))
    assert names
    assert [name[:5] for name in names] == [f"{number:04}-" for number in range(1, len(names) + 1)]


@pytest.mark.parametrize("page", ["README.md", ".github/CONTRIBUTING.md"])
def test_every_command_in_the_pages_exists_with_its_options(page: str) -> None:
    group = importlib.import_module("wsiseg.cli").main
    assert isinstance(group, click.Group)
    lines = [line for line in fenced(page) if line.startswith("wsiseg ")]
    assert lines or page != "README.md"
    for line in lines:
        _, name, *words = line.split("#")[0].split()
        assert name in group.commands, line
        params = group.commands[name].params
        known = {option for one in params for option in (*one.opts, *one.secondary_opts)}
        used = {word.split("=")[0] for word in words if re.match(r"^--?[a-z]", word)}
        assert used <= known | {"--help"}, line


def test_every_make_target_in_the_readme_exists() -> None:
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in fenced("README.md") if line.startswith("make ")}
    assert {"demo", "test"} <= named <= made


def test_every_shipped_bundle_is_whole_and_has_a_card() -> None:
    folders = [path.parent for path in (ROOT / "models").glob("*/bundle.json")]
    assert DEFAULT_BUNDLE in [folder.name for folder in folders]
    for folder in folders:
        spec = load_spec(folder)
        verify_files(folder, spec)
        assert spec.name == folder.name
        assert (folder / "README.md").is_file(), f"{folder.name} has no card"
        unnamed = {path.name for path in folder.glob("*.safetensors")} - {fold.file for fold in spec.folds}
        assert unnamed == set(), "weights that bundle.json does not name"


def test_the_demo_keeps_a_download_only_when_its_sha256_is_the_published_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"not the slide")
    downloaded = runpy.run_path(str(ROOT / "scripts" / "demo.py"))["downloaded"]
    kept = tmp_path / "cache" / "slide.svs"
    assert downloaded(source.as_uri(), kept, "0" * 64) is None
    assert not kept.exists()
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    assert downloaded((tmp_path / "absent").as_uri(), kept, sha256) is None
    assert downloaded(source.as_uri(), kept, sha256) == kept
    assert kept.read_bytes() == source.read_bytes()
    assert downloaded((tmp_path / "absent").as_uri(), kept, sha256) == kept, "a kept file needs no network"


def test_the_readmes_table_of_formats_is_what_the_script_finds(shared: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "format_table.py"))
    _, _, rest = (ROOT / "README.md").read_text().partition(script["BEGIN"])
    assert rest.partition(script["END"])[0] == script["table"](shared)
