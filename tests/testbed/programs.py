"""Builds the Go programs of a test bed: only what is missing or changed, kept by content in the cache.

Kubernetes, Istio, CoreDNS and pause have a small Go module each below `programs/`, which pins every
dependency. metrics-server and KWOK are installed by name and version. A cold build of everything takes a
quarter of an hour on two cores; the Go build cache makes later ones seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .cache import cache_folder, exclusive, fingerprint
from .console import TestbedError, run, say, step

SOURCES = Path(__file__).parent / "programs"
ISTIO_VERSION = "1.31.4"
KUBERNETES_VERSION = "v1.34.4"
ISTIO_REVISION = "eed52ebb66ad"  # the one commit that the Go module of Istio is served as
GO_MINIMUM = (1, 26)
BUILD_SECONDS = 1800
ATTEMPTS = 4
AGENT_TAGS = "agent,disable_pgv,grpcnotrace,retrynotrace"

KUBERNETES_COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)


@dataclass(frozen=True)
class Program:
    """How one program is built: the module it is in, the package, build tags and link flags."""

    name: str
    module: str
    package: str = "."
    tags: str = ""
    link_flags: str = "-s -w"
    installed: str = ""  # path@version of a program that has no module of its own here


def kubernetes() -> Program:
    stamp = "k8s.io/component-base/version"
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    return Program(
        "kubernetes",
        "kubernetes",
        link_flags=f"-s -w -X {stamp}.gitVersion={KUBERNETES_VERSION}"
        f" -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}",
    )


def coredns() -> Program:
    return Program("coredns", "coredns")


def pause() -> Program:
    return Program("pause", "pause")


def pilot_discovery(version: str = ISTIO_VERSION) -> Program:
    return _istio("pilot-discovery", "istio.io/istio/pilot/cmd/pilot-discovery", "vtprotobuf,disable_pgv", version)


def pilot_agent(version: str = ISTIO_VERSION) -> Program:
    return _istio("pilot-agent", "istio.io/istio/pilot/cmd/pilot-agent", AGENT_TAGS, version)


def install_cni(version: str = ISTIO_VERSION) -> Program:
    """What a pod of istio-cni runs: it installs the plugin on its node, and repairs pods that came before it."""
    return _istio("install-cni", "istio.io/istio/cni/cmd/install-cni", AGENT_TAGS, version)


def istio_cni(version: str = ISTIO_VERSION) -> Program:
    """The CNI plugin itself: the container runtime runs it, on the node."""
    return _istio("istio-cni", "istio.io/istio/cni/cmd/istio-cni", AGENT_TAGS, version)


def istioctl(version: str = ISTIO_VERSION) -> Program:
    return _istio("istioctl", "istio.io/istio/istioctl/cmd/istioctl", "", version)


def metrics_server() -> Program:
    return Program("metrics-server", "", installed="sigs.k8s.io/metrics-server/cmd/metrics-server@v0.9.0")


def kwok() -> Program:
    return Program("kwok", "", installed="sigs.k8s.io/kwok/cmd/kwok@v0.7.0")


def _istio(name: str, package: str, tags: str, version: str) -> Program:
    stamp = "istio.io/istio/pkg/version"
    flags = (
        f"-s -w -X {stamp}.buildVersion={version} -X {stamp}.buildTag={version}"
        f" -X {stamp}.buildGitRevision={ISTIO_REVISION} -X {stamp}.buildStatus=Clean"
        f" -X {stamp}.buildHub=docker.io/istio"
    )
    return Program(name, "istio", package, tags, flags)


def build(program: Program) -> Path:
    """The program's binary, built now unless the cache has one of the same sources, flags and Go version."""
    target = cache_folder() / "programs" / f"{program.name}-{_fingerprint(program)}" / program.name
    if target.exists():
        return target
    with exclusive(f"build-{program.name}"):
        if not target.exists():
            with step(f"build {program.name}"):
                _build_into(program, target.parent)
    return target


def kubernetes_programs() -> Path:
    """The folder with one link per Kubernetes component, all to the same binary."""
    binary = build(kubernetes())
    for component in KUBERNETES_COMPONENTS:
        link = binary.parent / component
        if not link.is_symlink():
            link.symlink_to(binary.name)
    return binary.parent


def kubectl() -> Path:
    return kubernetes_programs() / "kubectl"


def envoy_bootstrap_template() -> Path:
    """The bootstrap template that pilot-agent fills in for Envoy, from Istio's module."""
    folder = _go(["list", "-m", "-f", "{{.Dir}}", "istio.io/istio"], SOURCES / "istio", "find Istio's module").strip()
    if not folder:  # not downloaded yet
        _go(["mod", "download", "istio.io/istio"], SOURCES / "istio", "download Istio's module")
        folder = _go(["list", "-m", "-f", "{{.Dir}}", "istio.io/istio"], SOURCES / "istio", "find it").strip()
    return Path(folder) / "tools/packaging/common/envoy_bootstrap.json"


def kwok_stages() -> Path:
    """The folder with the stage files of the KWOK version that `kwok` builds."""
    version = kwok().installed.rpartition("@")[2]
    answer = _go(["mod", "download", "-json", f"sigs.k8s.io/kwok@{version}"], SOURCES / "pause", "find KWOK's module")
    found = re.search(r'"Dir": "([^"]+)"', answer)
    if not found:
        raise TestbedError("the module of KWOK has no folder")
    return Path(found[1]) / "kustomize/stage"


def _fingerprint(program: Program) -> str:
    folder = SOURCES / program.module
    files = [folder / name for name in ("go.mod", "go.sum")] + list(folder.glob("*.go")) if program.module else []
    words = [program.package, program.tags, program.link_flags, program.installed, go_version()]
    return fingerprint(words=words, files=[file for file in files if file.exists()])


def _build_into(program: Program, folder: Path) -> None:
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if program.installed:
        arguments = ["install", "-trimpath", "-ldflags", program.link_flags, program.installed]
        _go(arguments, SOURCES / "pause", f"build {program.name}", GOBIN=str(unfinished))
    else:
        arguments = ["build", "-trimpath", "-tags", program.tags, "-ldflags", program.link_flags]
        arguments += ["-o", str(unfinished / program.name), program.package]
        _go(arguments, SOURCES / program.module, f"build {program.name}")
    unfinished.rename(folder)
    _forget_older(folder, program.name)


def _forget_older(folder: Path, name: str) -> None:
    """Two generations stay, so that switching between two branches rebuilds nothing."""
    builds = [path for path in folder.parent.glob(f"{name}-*") if re.fullmatch(rf"{name}-[0-9a-f]{{12}}", path.name)]
    for old in sorted(builds, key=lambda path: path.stat().st_mtime, reverse=True)[4:]:
        shutil.rmtree(old, ignore_errors=True)


@cache
def go_version() -> str:
    if shutil.which("go") is None:
        raise TestbedError("Go is not installed", "install Go {}.{} or newer and put it on PATH".format(*GO_MINIMUM))
    # Asked inside a module, because its go line may select a newer toolchain.
    version = run(["go", "env", "GOVERSION"], cwd=SOURCES / "istio", timeout=300).strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < GO_MINIMUM:
        raise TestbedError(f"Go is {version}", "install Go {}.{} or newer and put it on PATH".format(*GO_MINIMUM))
    return version


# Failures on the way to the module source that another attempt may get past; an answer of 403 or 404 is
# final.
_PASSING = re.compile(
    r"timeout|timed out|connection re(set|fused)|unexpected EOF|TLS handshake|no such host|server misbehaving"
    r"|temporary failure|5\d\d (Internal|Bad|Service|Gateway)|429 Too Many|stream error|INTERNAL_ERROR",
    re.IGNORECASE,
)


def _go(arguments: list[str], folder: Path, purpose: str, **env: str) -> str:
    """Runs go; what fails on the network is tried again after a pause, up to a bound."""
    go_version()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", **env}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            done = subprocess.run(
                ["go", *arguments],
                cwd=folder,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
                timeout=BUILD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise TestbedError(f"{purpose}: go did not end within {BUILD_SECONDS // 60} minutes") from error
        if done.returncode == 0:
            return done.stdout
        if not _PASSING.search(done.stderr) or attempt == ATTEMPTS:
            break
        say(f"{purpose}: the download failed, attempt {attempt} of {ATTEMPTS}; again in {5 * attempt}s")
        time.sleep(5 * attempt)
    said = "\n    ".join(done.stderr.strip().splitlines()[-12:])
    raise TestbedError(f"{purpose} failed:\n    {said}")
