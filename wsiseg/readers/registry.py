"""Which reader for which file: ours by name, and those that installed packages add.

A package adds a reader by an entry point of the group ``wsiseg.readers``, whose name is the
reader's and whose object is a ``wsiseg.readers.levels.Reader``.
"""

import logging
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from wsiseg.errors import SlideOpenError, UsageError
from wsiseg.readers.levels import Reader

__all__ = ["GROUP", "READERS", "check_reader", "choose_reader"]

log = logging.getLogger(__name__)

GROUP = "wsiseg.readers"
"""The entry-point group through which packages add readers."""

READERS = {
    "openslide": "wsiseg.readers.openslide_reader:OpenSlideLevels",
    "kfb": "wsiseg.readers.kfb_reader:KfbLevels",
    "sdpc": "wsiseg.readers.sdpc_reader:SdpcLevels",
    "zarr": "wsiseg.readers.zarr_reader:ZarrLevels",
    "tiffslide": "wsiseg.readers.tiffslide_reader:TiffSlideLevels",
    "image": "wsiseg.readers.image_reader:ImageLevels",
}
"""Names for ``reader=``, in the order in which they are asked, and where each one is."""
LAST = ("tiffslide", "image")
"""Asked after the readers of packages: these two try any TIFF, PNG and JPEG."""


def check_reader(name: str) -> None:
    """Refuse a name that no reader has.

    Raises:
        UsageError: it lists the names there are.
    """
    if name != "auto" and name not in READERS:
        added = _added()
        if name not in added:
            msg = f"no reader {name!r}: choose auto, {', '.join([*READERS, *added])}"
            raise UsageError(msg)


def choose_reader(path: Path, name: str) -> Reader:
    """The reader of that name, or with ``"auto"`` the first that knows the file's format.

    Raises:
        SlideOpenError: none knows it, the one named does not, or it cannot be loaded.
    """
    if name == "auto":
        return _first_that_knows(path)
    reader = _ours(name) if name in READERS else _load(_added()[name])
    if not reader.knows(path):
        msg = f"{path.name} is of no format that {name} knows; try --reader auto"
        raise SlideOpenError(msg)
    return reader


def _first_that_knows(path: Path) -> Reader:
    for name in READERS:
        if name not in LAST and (reader := _ours(name)).knows(path):
            return reader
    for name, entry in _added().items():
        try:
            reader = _load(entry)
            if reader.knows(path):
                return reader
        except Exception as error:  # noqa: BLE001 - a stranger's reader; its failures are not one family
            log.warning("the reader %r is passed over: %s", name, error)
    for name in LAST:
        if (reader := _ours(name)).knows(path):
            return reader
    msg = f"{path.name} is of no format that is known here; convert it to a tiled pyramid (OME-TIFF, SVS)"
    raise SlideOpenError(msg)


def _ours(name: str) -> Reader:
    module, _, attribute = READERS[name].partition(":")
    return cast("Reader", getattr(import_module(module), attribute))


def _added() -> dict[str, EntryPoint]:
    """Entry points by name; one that takes the name of a reader of ours is passed over."""
    found = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        if entry.name in READERS or entry.name == "auto":
            log.warning(
                "%s: the name %r is taken by a reader of wsiseg; passed over", entry.value, entry.name
            )
        else:
            found[entry.name] = entry
    return found


def _load(entry: EntryPoint) -> Reader:
    try:
        return cast("Reader", entry.load())
    except Exception as error:
        msg = (
            f"the reader {entry.name!r} ({entry.value}) cannot be loaded: {error}; mend or remove its package"
        )
        raise SlideOpenError(msg) from error
