"""Where built programs and images are kept between runs, by the content of what they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """`$MESHWRIGHT_CACHE`, or `meshwright` below `$XDG_CACHE_HOME`, or below `~/.cache`."""
    if own := os.environ.get("MESHWRIGHT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshwright"


def fingerprint(*, words: Iterable[str] = (), files: Iterable[Path] = ()) -> str:
    """Twelve hexadecimal digits that change with any word, file name or content; not with the order of files.

    Files are known by name, not by folder, so that two checkouts share what they build.
    """
    digest = hashlib.sha256()
    for word in words:
        digest.update(f"word {len(word)} {word}\n".encode())
    for path in sorted(files, key=lambda path: path.name):
        digest.update(f"file {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """One process at a time: a second one waits and then finds the work done."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
