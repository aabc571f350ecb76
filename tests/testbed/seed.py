"""Nodes that have their images before they start: an unpacked containerd root, planted by hard links.

Importing the archive of a cluster takes a node seconds of processor time, and a kubelet that looks for an
image before it is there waits longer each time it looks. So the archive is unpacked once. What the root
consists of never changes: blobs are named by their content and snapshots of image layers are only read; the
few databases are copied.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .cache import cache_folder, exclusive
from .console import TestbedError, run, step

START_SECONDS = 30


def seed(archive: Path) -> Path:
    """The unpacked root for an archive; made at the first call."""
    folder = cache_folder() / "seeds" / archive.stem
    with exclusive("seed"):
        if not folder.exists():
            with step(f"unpack {archive.name}"):
                _unpack(archive, folder)
            _forget_older(folder)
    return folder


def plant(root: Path, target: Path) -> None:
    """Makes `target` a copy of a seed, in a fraction of a second where both are on one file system."""
    how = "--link" if root.stat().st_dev == target.parent.stat().st_dev else "--reflink=auto"
    run(["cp", "--archive", how, str(root), str(target)], timeout=300)
    for database in target.rglob("*.db"):
        own = database.with_suffix(".part")
        shutil.copy2(database, own)
        own.rename(database)


def _unpack(archive: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="meshwright-seed-") as scratch:
        socket = Path(scratch) / "socket"
        config = Path(scratch) / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{unfinished}"\nstate = "{scratch}/state"\noom_score = 0\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{socket}"\n'
        )
        # In a mount namespace of its own, because unpacking mounts every layer for a moment; it ends with
        # this process.
        apart = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount"]
        containerd = [*apart, "containerd", "--config", str(config)]
        with (Path(scratch) / "log").open("wb") as log:
            process = subprocess.Popen(containerd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_for(socket, process, Path(scratch) / "log")
            ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
            run([*ctr, "images", "import", str(archive)], timeout=300)
        finally:
            process.terminate()
            process.wait(30)
    unfinished.rename(folder)


def _wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            said = "\n    ".join(log.read_text(errors="replace").splitlines()[-4:])
            raise TestbedError(f"containerd did not start:\n    {said}")
        time.sleep(0.05)


def _forget_older(folder: Path) -> None:
    """Running nodes keep what they have planted: a hard link holds its file."""
    same = [entry for entry in folder.parent.iterdir() if entry.is_dir()]
    for old in sorted(same, key=lambda entry: entry.stat().st_mtime, reverse=True)[3:]:
        shutil.rmtree(old, ignore_errors=True)
