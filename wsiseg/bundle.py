"""A model bundle: a folder of weights with everything that is needed to use them rightly.

``<name>/bundle.json`` is this module's ``BundleSpec``; beside it lie the card
(``README.md``) and one ``fold-K.safetensors`` per fold. Nothing here loads torch.
"""

import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wsiseg.errors import BundleError, UsageError
from wsiseg.resample import Kernel

__all__ = [
    "PICKLES",
    "BundleSpec",
    "FoldFile",
    "bundle_dirs",
    "find_bundle",
    "load_spec",
    "verify_files",
    "with_folds",
]

PICKLES = frozenset({".pt", ".pth", ".pkl", ".ckpt", ".bin"})
"""How the names of weights end that may run any code when they are read: none of them is."""
LATTICE = 64
"""Input size and margin are multiples of this, so that a patch corner can be whole on level 0."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FoldFile(_Frozen):
    """The weights of one fold: a file beside ``bundle.json`` and its sha256 (hex)."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.safetensors$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("file", mode="before")
    @classmethod
    def _no_pickle(cls, file: object) -> object:
        if isinstance(file, str) and Path(file).suffix in PICKLES:
            msg = f"{file} looks like a pickle, which can run any code; convert it to .safetensors first"
            raise ValueError(msg)
        return file


class BundleSpec(_Frozen):
    """What a bundle is and how it wants to be used.

    A patch is ``patch_px`` pixels at ``mpp`` microns per pixel, resized by ``resample`` to
    ``input_px`` for the network (paper, section 2: 1500 to 1024); the network thus sees
    ``canvas_mpp``, the resolution at which probabilities are stored. Each fold's logits are
    divided by ``temperature`` before the sigmoid. ``threshold``, the smallest areas, ``sure``
    (the probability that as much of a region as its smallest area must reach; 0 asks for nothing) and
    ``review_above`` (the folds' disagreement from which a region is to be reviewed; None where
    nobody has judged it) are what ``wsiseg segment`` uses unless it is told otherwise.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    classes: tuple[str, ...] = ("Tumor",)
    architecture: Literal["FPN"] = "FPN"
    encoder: str
    patch_px: Annotated[int, Field(gt=0)] = 1500
    input_px: Annotated[int, Field(gt=0, multiple_of=LATTICE)] = 1024
    margin: Annotated[int, Field(ge=0, multiple_of=LATTICE)] = 128
    mpp: Annotated[float, Field(gt=0, le=10)] = 0.5
    resample: Kernel = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    temperature: Annotated[float, Field(gt=0)] = 1.0
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_area_um2: Annotated[float, Field(ge=0)] = 5000.0
    min_hole_um2: Annotated[float, Field(ge=0)] = 2000.0
    sure: Annotated[float, Field(ge=0, lt=1)] = 0.0
    review_above: Annotated[float, Field(ge=0, le=0.5)] | None = None
    folds: Annotated[tuple[FoldFile, ...], Field(min_length=1)]
    licence: str
    trained_on: str

    @model_validator(mode="after")
    def _margin_leaves_a_core(self) -> Self:
        if 2 * self.margin >= self.input_px:
            msg = f"a margin of {self.margin} leaves nothing of {self.input_px} input pixels"
            raise ValueError(msg)
        return self

    @property
    def canvas_mpp(self) -> float:
        """Microns per pixel at the network's input.

        >>> BundleSpec.model_construct(mpp=0.5, patch_px=1500, input_px=1024).canvas_mpp
        0.732421875
        """
        return self.mpp * self.patch_px / self.input_px

    @property
    def fold_names(self) -> tuple[str, ...]:
        """What the folds are called: their files' names without ``fold-`` and the suffix."""
        return tuple(fold.file.removeprefix("fold-").removesuffix(".safetensors") for fold in self.folds)

    @property
    def weights_key(self) -> str:
        """A sha256 (hex) over the weights of all folds, whatever their order."""
        return hashlib.sha256("".join(sorted(fold.sha256 for fold in self.folds)).encode()).hexdigest()


def bundle_dirs() -> list[Path]:
    """The folders in which bundles are looked for by name, first one first.

    ``$WSISEG_MODELS`` where it is set; then ``models/`` as packaged with an installed
    wsiseg; then ``models/`` of a source checkout.
    """
    package = Path(str(resources.files("wsiseg")))
    named = os.environ.get("WSISEG_MODELS")
    folders = [Path(named)] if named else []
    return [*folders, *(d for d in (package / "models", package.parent / "models") if d.is_dir())]


def find_bundle(name_or_dir: str | Path) -> Path:
    """The folder of a bundle given by its path or by its name.

    Raises:
        BundleError: nothing of that name; the message lists the names there are.
    """
    given = Path(name_or_dir)
    if (given / "bundle.json").is_file():
        return given
    known = {
        d.name: d for root in reversed(bundle_dirs()) for d in root.iterdir() if (d / "bundle.json").is_file()
    }
    if str(name_or_dir) in known:
        return known[str(name_or_dir)]
    names = ", ".join(sorted(known)) or "none"
    msg = f"no model bundle {str(name_or_dir)!r}: give a folder with a bundle.json, or one of: {names}"
    raise BundleError(msg)


def load_spec(folder: Path) -> BundleSpec:
    """The spec of the bundle in a folder; looks at ``bundle.json`` alone.

    Raises:
        BundleError: the file is missing, is no JSON, or breaks the format (field by field).
    """
    path = folder / "bundle.json"
    try:
        return BundleSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror}); a bundle is a folder with a bundle.json"
        raise BundleError(msg) from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        msg = f"{path} is not a bundle of this version: {wrong}"
        raise BundleError(msg) from error


def with_folds(spec: BundleSpec, count: int | None) -> BundleSpec:
    """The spec with only its first so many folds; None is all of them.

    Raises:
        UsageError: it has fewer.
    """
    if count is not None and count > len(spec.folds):
        msg = f"--folds {count}: {spec.name} has {len(spec.folds)}"
        raise UsageError(msg)
    return spec.model_copy(update={"folds": spec.folds[:count]})


def verify_files(folder: Path, spec: BundleSpec) -> None:
    """Check the sha256 of every fold's weights.

    Raises:
        BundleError: a file is missing, or its bytes are not those the bundle was written with.
    """
    for fold in spec.folds:
        path = folder / fold.file
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            msg = f"{path} cannot be read ({error.strerror}); fetch the bundle again"
            raise BundleError(msg) from error
        if found != fold.sha256:
            wrong = f"its sha256 is {found[:12]}…, bundle.json says {fold.sha256[:12]}…"
            msg = f"{path} is damaged: {wrong}; fetch the bundle again"
            raise BundleError(msg)
