"""Weights from the network: into a cache, once, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import re
import shutil
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from labelenc.config import resolve_weight
from labelenc.engine.distributed import all_gather_objects, broadcast_object, is_main
from labelenc.engine.files import CheckpointError, load_file

logger = logging.getLogger(__name__)

# Seconds without a single byte.
TIMEOUT = 30.0
_CHUNK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class DownloadError(CheckpointError):
    """Weights that cannot be had from the network; the message says which file to put where."""


def fetch_weight(weight: str) -> str:
    """The path of the file behind MODEL.WEIGHT, after a download where a ``catalog://`` name needs one.

    All processes must call it. Rank 0 downloads while the others wait.

    Raises:
        ConfigError: an unknown ``catalog://`` name.
        DownloadError: on every process, where the file is not there and cannot be fetched.
    """
    source = resolve_weight(weight)
    if source.url is not None:
        download(source.url, Path(source.path))
    return source.path


def download(url: str, path: Path) -> None:
    """Put the file of ``url`` at ``path``, unless an undamaged one is there.

    The parts of an interrupted download are kept in ``<path>.part`` and continued. A download is accepted if
    it has the length that the server announced and can be read as a file of weights. Its SHA-256 is kept in
    ``<path>.sha256`` (the format of sha256sum) and checked at every later use; a file without one, as a
    person puts it there, is taken as it is. All processes must call it.

    Raises:
        DownloadError: on every process, with the URL, the path and the remedies.
    """
    failure = broadcast_object(_attempt(url, path) if is_main() else None)
    if failure is None:
        # Machines that do not share rank 0's disk need a copy of their own.
        elsewhere = not is_main() and not path.exists()
        failures = all_gather_objects(_attempt(url, path) if elsewhere else None)
        failure = next((found for found in failures if found is not None), None)
    if failure is not None:
        raise DownloadError(
            f"cannot get {path.name}: {failure}. Download {url} where there is a network and put it at "
            f"{path} (the folder is $LABELENC_CACHE, else ~/.cache/labelenc), or set MODEL.WEIGHT to a file "
            'of your own, or to "" for random weights.'
        )


def _attempt(url: str, path: Path) -> str | None:
    """What went wrong, as text that other processes can be told."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_usable(path):
            return None
        # Other processes and other runs wait here, and then find the file.
        with FileLock(path.with_name(path.name + ".lock")):
            if not _is_usable(path):
                _download_whole(url, path)
    except (OSError, http.client.HTTPException, CheckpointError, ValueError) as error:
        # Its own text wraps the cause in brackets.
        cause = error.reason if type(error) is urllib.error.URLError else error
        return str(cause).rstrip(".") or repr(cause)
    return None


def _is_usable(path: Path) -> bool:
    if not path.is_file():
        return False
    record = _record_of(path)
    if not record.is_file() or record.read_text(encoding="utf-8").split()[:1] == [_sha256(path)]:
        return True
    logger.warning("%s is damaged: its SHA-256 is not the one in %s", path, record.name)
    return False


def _download_whole(url: str, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    logger.info("downloading %s to %s", url, path)
    while True:
        before = _size(part)
        try:
            _continue(url, part)
            break
        # A connection that broke is taken up again for as long as it brings something.
        except (OSError, http.client.HTTPException):
            if _size(part) <= before:
                raise
    try:
        load_file(part)
    except CheckpointError as error:
        part.unlink()
        raise CheckpointError(f"what {url} sent is no file of weights ({error})") from None
    # The record comes first: killed in between, there is a record without a file, which is downloaded again.
    _record_of(path).write_text(f"{_sha256(part)}  {path.name}\n", encoding="utf-8")
    part.replace(path)


def _continue(url: str, part: Path) -> None:
    """One request: append to ``part`` what it lacks, or start it anew where the server has only that."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        part.unlink()
        return _continue(url, part)
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        total = _total_length(response.headers, have if resumed else 0)
        if resumed and (total is None or _is_newer(response.headers, part)):
            part.unlink()
            return _continue(url, part)
        with (
            part.open("ab" if resumed else "wb") as stream,
            tqdm.wrapattr(
                stream, "write", total=total, initial=have if resumed else 0, desc=part.stem, disable=None
            ) as progress,
        ):
            shutil.copyfileobj(response, progress, _CHUNK)
    if total is not None and _size(part) != total:
        short = _size(part) < total
        message = f"the connection ended after {_size(part)} of {total} bytes"
        if not short:
            part.unlink()
            message = f"the server sent more than the {total} bytes that it announced"
        raise ConnectionError(message)
    return None


def _total_length(headers: http.client.HTTPMessage, start: int) -> int | None:
    """The length of the whole file; None where it is not announced, or where a range starts elsewhere."""
    if start:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        return int(found[2]) if found is not None and int(found[1]) == start else None
    length = headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _is_newer(headers: http.client.HTTPMessage, part: Path) -> bool:
    """The server's file has changed since the beginning of it was written."""
    with contextlib.suppress(TypeError, ValueError):
        return parsedate_to_datetime(headers["Last-Modified"]).timestamp() > part.stat().st_mtime
    return False


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        # hashlib.file_digest needs Python 3.11.
        digest = hashlib.sha256()
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
