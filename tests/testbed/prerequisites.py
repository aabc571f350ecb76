"""What the machine must have before a bed can start, and how to get it on Debian."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from .console import TestbedError, run, say, step

# A program of each package, to see without the package database whether it is there.
DEBIAN_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "nftables": "nft",
    "conntrack": "conntrack",
    "socat": "socat",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iproute2": "ip",
    "util-linux": "nsenter",
    "prometheus": "promtool",
}
# Of the packages, those whose service is to stay off: masked before its package comes, it starts neither now nor later.
SERVICES = {"prometheus": "prometheus.service"}
SYSTEMD = Path("/etc/systemd/system")
INSTALL_SECONDS = 600
ATTEMPTS = 3


def missing() -> list[str]:
    """Debian packages that are not installed; administrators' folders count even if PATH lacks them."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return [
        package
        for package, program in DEBIAN_PACKAGES.items()
        if not (Path(program).exists() if program.startswith("/") else shutil.which(program, path=path))
    ]


def check() -> None:
    """Says what is missing, and what to do about it, before anything is started."""
    if sys.platform != "linux":
        raise TestbedError("the local test bed needs Linux", "set MESHWRIGHT_E2E_BACKEND=kind")
    if platform.machine() != "x86_64":
        problem = f"the local test bed is for x86-64, and this is {platform.machine()}"
        raise TestbedError(problem, "set MESHWRIGHT_E2E_BACKEND=kubeconfig")
    if os.geteuid() != 0:
        raise TestbedError("the local test bed needs root", "run this as root, or set MESHWRIGHT_E2E_BACKEND=kind")
    if absent := missing():
        raise TestbedError(f"not installed: {' '.join(absent)}", "python -m testbed prereqs")
    for folder in ("/usr/sbin", "/sbin"):
        if folder not in os.environ["PATH"].split(os.pathsep):
            os.environ["PATH"] += os.pathsep + folder
    _load_kernel_modules()


def install() -> None:
    """Installs what is missing with apt; a download that fails is tried again."""
    absent = missing()
    if not absent:
        say("every package that the test bed needs is installed")
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise TestbedError(f"not installed: {' '.join(absent)}", "install them as root with the system's package tool")
    mask(SERVICES[package] for package in absent if package in SERVICES)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with step(f"install {' '.join(absent)}"):
                run(["apt-get", "update"], env=environment, timeout=INSTALL_SECONDS)
                argv = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
                run(argv, env=environment, timeout=INSTALL_SECONDS)
        except TestbedError as error:
            if attempt == ATTEMPTS:
                raise
            say(f"attempt {attempt} of {ATTEMPTS} failed; again in {10 * attempt}s: {error}")
            time.sleep(10 * attempt)
        else:
            return


def mask(services: Iterable[str], *, folder: Path = SYSTEMD) -> None:
    """What `systemctl mask` does; also where systemd is installed and not running, and before the unit is there."""
    if not folder.is_dir():  # no systemd, and by Debian's policy nothing else starts it in a container
        return
    for service in services:
        if not os.path.lexists(folder / service):
            (folder / service).symlink_to("/dev/null")


def _load_kernel_modules() -> None:
    """Where they are modules; built in, modprobe has nothing to do and may not even be there."""
    if shutil.which("modprobe") is None:
        return
    for module in ("overlay", "br_netfilter", "nf_tables", "veth"):
        subprocess.run(["modprobe", "--quiet", module], check=False, capture_output=True)
