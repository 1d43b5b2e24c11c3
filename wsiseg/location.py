"""Where a slide is: a path of this machine, or the address of one that a server holds."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self
from unicodedata import category
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Location", "Remote", "located", "printable"]


@dataclass(frozen=True, slots=True)
class Remote:
    """A slide on a server, by its full URL; where it is shown, secrets are left out.

    >>> slide = Remote("https://me:secret@host/a/b%20c.svs?signature=xyz")
    >>> slide.name, slide.stem, str(slide)
    ('b c.svs', 'b c', 'https://host/a/b%20c.svs')
    """

    url: str

    def __str__(self) -> str:
        """The URL without user, password and query, which may be secrets."""
        parts = self._parts
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The file's ending."""
        return self._path.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """Host, folders and file."""
        return (self._parts.netloc.rpartition("@")[2], *self._path.parts[1:])

    def absolute(self) -> Self:
        """Itself: a URL depends on no working folder."""
        return self

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(unquote(self._parts.path))


Location = Path | Remote


def printable(text: str) -> str:
    r"""A name as it can be shown and stored: bytes that are no UTF-8, and control characters, as escapes.

    >>> printable("a\udcff\n.svs"), printable("組織.svs")
    ('a\\udcff\\n.svs', '組織.svs')
    """
    return "".join(
        one.encode("unicode_escape").decode() if category(one) in {"Cc", "Cs"} else one for one in text
    )


def located(text: str) -> Location:
    """The place that a user means: a URL has a scheme and ``://``, everything else is a path.

    >>> located("http://host/a.svs"), located("a.svs")
    (Remote(url='http://host/a.svs'), PosixPath('a.svs'))
    """
    scheme, mark, _ = text.partition("://")
    return Remote(text) if mark and scheme.replace("+", "").isalnum() else Path(text)
