"""Fills dist/wheels for the Dockerfile: our wheel, the locked dependencies for the image's Python, and pip itself.

Downloads are checked against the hashes in requirements/, kept while those files stay the same, and tried again a few
times; our own wheel is built anew on each call. For x86-64 only, as the test bed is.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
WHEELS = ROOT / "dist/wheels"
LOCK = ROOT / "requirements/runtime.txt"
PIP = ROOT / "requirements/pip.txt"
STAMP = WHEELS / ".dependencies"
IMAGE_PYTHON = "3.11"  # of the Dockerfile's BASE
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
ATTEMPTS = 3


def main() -> int:
    wanted = hashlib.sha256(LOCK.read_bytes() + PIP.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    if not STAMP.exists() or STAMP.read_text() != wanted:
        shutil.rmtree(WHEELS, ignore_errors=True)
        WHEELS.mkdir(parents=True)
        platforms = [f"--platform={each}" for each in PLATFORMS]
        target = ["--only-binary=:all:", f"--python-version={IMAGE_PYTHON}", *platforms]
        pip("download", "--no-deps", "--require-hashes", *target, f"--dest={WHEELS}", f"--requirement={LOCK}")
        pip("download", "--no-deps", "--require-hashes", f"--dest={WHEELS}", f"--requirement={PIP}")
        STAMP.write_text(wanted)
    for stale in WHEELS.glob("meshwright-*.whl"):
        stale.unlink()
    pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={WHEELS}", str(ROOT))
    return 0


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    for attempt in range(1, ATTEMPTS + 1):
        if subprocess.run(command, check=False, timeout=600).returncode == 0:
            return
        if attempt < ATTEMPTS:
            print(f"attempt {attempt} of {ATTEMPTS} failed, trying again in {5 * attempt} s", file=sys.stderr)
            time.sleep(5 * attempt)
    raise SystemExit(f"failed {ATTEMPTS} times: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
