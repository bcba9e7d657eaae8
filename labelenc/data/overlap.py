"""Images that are trained on and tested on: the same bytes under any name, found without decoding."""

from __future__ import annotations

import filecmp
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labelenc.data.annotations import Annotations

# The end of a JPEG or PNG file is compressed pixels, which hardly ever agree by chance.
_TAIL = 16384
_THREADS = 8

Images = tuple[Annotations, str]


def shared_images(training: Sequence[Images], testing: Sequence[Images]) -> list[tuple[str, str]]:
    """Paths (training image, test image) of images that are in both, in the order of the test images.

    Files of equal length in bytes and equal size in pixels are compared by a hash of their last 16 KiB, and
    where that agrees, as a whole; so of most files only the length is asked for. Missing files are passed
    over. A picture that was encoded anew or resized is not recognised.

    Args:
        training, testing: annotations and image folder of each set.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        trained, tested = (_by_size(pool, sets) for sets in (training, testing))
        candidates = [key for key in tested if key in trained]
        train_paths = [path for key in candidates for path in trained[key]]
        test_paths = [path for key in candidates for path in tested[key]]
        by_hash: dict[bytes, str] = {}
        for path, digest in zip(train_paths, pool.map(_fingerprint, train_paths), strict=True):
            by_hash.setdefault(digest, path)
        digests = pool.map(_fingerprint, test_paths)
        pairs = [
            (by_hash[digest], path)
            for path, digest in zip(test_paths, digests, strict=True)
            if digest and digest in by_hash and _equal(by_hash[digest], path)
        ]
    place = {path: i for i, path in enumerate(_paths(testing))}
    return sorted(set(pairs), key=lambda pair: place[pair[1]])


def _paths(sets: Iterable[Images]) -> list[str]:
    return [
        str(Path(folder, annotations.file_name(row)))
        for annotations, folder in sets
        for row in range(len(annotations))
    ]


def _by_size(pool: ThreadPoolExecutor, sets: Sequence[Images]) -> dict[tuple[int, ...], list[str]]:
    """Paths by (bytes, width, height)."""
    paths = _paths(sets)
    sizes = [size for annotations, _ in sets for size in annotations.sizes.tolist()]
    found: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for path, size, length in zip(paths, sizes, pool.map(_length, paths), strict=True):
        if length:
            found[(length, size[0], size[1])].append(path)
    return found


def _length(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _fingerprint(path: str) -> bytes:
    """Empty where the file can't be read."""
    try:
        with Path(path).open("rb") as stream:
            length = stream.seek(0, 2)
            stream.seek(max(length - _TAIL, 0))
            return hashlib.blake2b(stream.read() + length.to_bytes(8, "little")).digest()
    except OSError:
        return b""


def _equal(one: str, other: str) -> bool:
    return one == other or filecmp.cmp(one, other, shallow=False)
