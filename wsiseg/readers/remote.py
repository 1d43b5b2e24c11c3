"""Slides on a server, in parts through fsspec: what can be said of them before a library reads them.

Not every byte can be hashed, for that would fetch the whole slide: the fingerprint is over
the size, whatever the server tells of the version (ETag, Last-Modified, checksums), and bytes
from both ends and sixteen places between.
"""

import hashlib
import json
from typing import Any

from wsiseg.errors import SlideOpenError
from wsiseg.location import Remote

__all__ = ["check_remote", "fingerprint_remote"]

ENDS, SAMPLE, SAMPLES = 1 << 20, 1 << 16, 16
"""Bytes that are hashed: at either end, and at each of so many places between."""
VERSION = ("ETag", "Last-Modified", "Content-MD5", "Digest", "etag", "LastModified", "mtime", "md5Hash")
"""What file systems tell of a file's version."""


def check_remote(remote: Remote) -> None:
    """Refuse what is not there or cannot be read in parts.

    Raises:
        SlideOpenError: with the reason.
    """
    _, info = _served(remote)
    if not info.get("size") or info.get("partial") is False:
        msg = (
            f"{remote} is served without its size or not in parts (HTTP ranges), so it cannot be read from "
            "afar; download it"
        )
        raise SlideOpenError(msg)


def fingerprint_remote(remote: Remote) -> str:
    """A sha256 (hex) over size, the server's word on the version, and a sample of the bytes.

    Raises:
        SlideOpenError: the server gives none.
    """
    files, info = _served(remote)
    size = int(info["size"])
    places = {(0, min(ENDS, size)), (max(0, size - ENDS), size)}
    places |= {(at, min(at + SAMPLE, size)) for at in range(0, size, max(1, size // SAMPLES))}
    told = {name: str(info[name]) for name in VERSION if info.get(name)}
    digest = hashlib.sha256(json.dumps({"size": size, **told}, sort_keys=True).encode())
    try:
        for start, stop in sorted(places):
            digest.update(files.cat_file(remote.url, start=start, end=stop))
    except Exception as error:
        raise SlideOpenError(_unreachable(remote, error)) from error
    return digest.hexdigest()


def _served(remote: Remote) -> tuple[Any, dict[str, Any]]:
    """The file system of a URL, and what it says of the file."""
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - loaded when there is a URL to read

        files, path = url_to_fs(remote.url)
        return files, dict(files.info(path))
    except FileNotFoundError as error:
        msg = f"{remote} is not there, or its server cannot be reached; check the address"
        raise SlideOpenError(msg) from error
    except (ImportError, ValueError) as error:
        how = "pip install 'wsiseg[remote]' reads http and https"
        msg = f"{remote} cannot be read: {_said(remote, error)} ({how})"
        raise SlideOpenError(msg) from error
    except Exception as error:
        raise SlideOpenError(_unreachable(remote, error)) from error


def _unreachable(remote: Remote, error: Exception) -> str:
    return f"{remote} cannot be reached ({type(error).__name__}: {_said(remote, error)}); try again"


def _said(remote: Remote, error: Exception) -> str:
    """What a library says, without the secrets of the URL."""
    return " ".join(str(error).replace(remote.url, str(remote)).split())[:300]
