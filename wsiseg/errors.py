"""Every error that wsiseg raises on purpose.

::

    WsisegError                 exit 1
    ├── UsageError              options that contradict each other or name nothing: exit 2
    ├── SlideError              this slide cannot be segmented; the next one may be
    │   ├── SlideOpenError      not a slide, damaged, cut short, or of no known format
    │   ├── SlideReadError      it opened, but a region of it cannot be decoded
    │   └── ResolutionError     microns per pixel unknown, implausible or not square
    ├── PlanError               the work would not fit: memory, disk
    ├── BundleError             a model bundle is missing, damaged or not ours
    ├── DeviceError             the asked-for device is not there or gave up
    ├── OutputError             a result cannot be written, or would overwrite other work
    │   └── CanvasError         a stored map or its ledger is damaged
    ├── GeoJSONError            a file that QuPath would not import
    └── DataError               training data that cannot be used; lists every case at once

A message is one sentence or two: what is wrong with what, and what to do about it.
Exceptions of foreign libraries are turned into one of these where they arise, and only
there; ``assert`` is for our own mistakes.
"""

__all__ = [
    "BundleError",
    "CanvasError",
    "DataError",
    "DeviceError",
    "GeoJSONError",
    "OutputError",
    "PlanError",
    "ResolutionError",
    "SlideError",
    "SlideOpenError",
    "SlideReadError",
    "UsageError",
    "WsisegError",
]


class WsisegError(Exception):
    """The root of the tree: catch this to catch everything wsiseg raises on purpose."""

    exit_code: int = 1


class UsageError(WsisegError):
    """Options that contradict each other or name something that is not there."""

    exit_code = 2


class SlideError(WsisegError):
    """One slide cannot be segmented; the others of a batch still can."""


class SlideOpenError(SlideError):
    """The file is no slide, is damaged or cut short, or its format is unknown."""


class SlideReadError(SlideError):
    """The slide opened, but a region of it cannot be decoded."""


class ResolutionError(SlideError):
    """Microns per pixel are unknown, implausible, or differ between x and y."""


class PlanError(WsisegError):
    """The work would not fit into the memory or disk at hand."""


class BundleError(WsisegError):
    """A model bundle is missing, damaged, or written for another version."""


class DeviceError(WsisegError):
    """The device that was asked for is not there, or has given up."""


class OutputError(WsisegError):
    """A result cannot be written, or would overwrite work made with other settings."""


class CanvasError(OutputError):
    """A stored probability map or its ledger is damaged."""


class GeoJSONError(WsisegError):
    """A GeoJSON file that QuPath would refuse, or that is no GeoJSON at all."""


class DataError(WsisegError):
    """Training data that cannot be used; the message lists every bad case."""
