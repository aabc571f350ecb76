"""`python -m testbed`: builds, starts, looks at and removes local clusters."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from . import cluster, images, prerequisites, programs
from .console import TestbedError, say
from .images import IstioImages
from .leftovers import leftovers
from .state import all_beds

DEFAULT_NAME = "meshwright"


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        return command(arguments)
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"error: {error}\n  next: run this as root", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _prereqs(_: argparse.Namespace) -> int:
    prerequisites.install()
    return 0


def _build(arguments: argparse.Namespace) -> int:
    istio = IstioImages(arguments.istio_version)
    say(f"kubernetes {programs.kubernetes_programs()}")
    say(f"images {images.cluster_archive(istio)}")
    extras: dict[str, Callable[[], Path]] = {
        "istioctl": lambda: programs.build(programs.istioctl(arguments.istio_version)),
        "metrics-server": images.metrics_server_archive,
        "kwok": lambda: programs.build(programs.kwok()),
    }
    for name in arguments.extra:
        if name not in extras:
            raise TestbedError(f"{name!r} is none of {', '.join(extras)}")
        say(f"{name} {extras[name]()}")
    return 0


def _up(arguments: argparse.Namespace) -> int:
    bed = cluster.up(
        arguments.name,
        clusters=arguments.clusters,
        nodes=arguments.nodes,
        flat=arguments.flat,
        istio=IstioImages(arguments.istio_version),
        metrics_server=arguments.metrics_server,
    )
    say(f"contexts: {', '.join(entry.name for entry in bed.clusters)}")
    print(f"export KUBECONFIG={bed.kubeconfig}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    for name in [state.name for state in all_beds()] if arguments.all else [arguments.name]:
        say(f"bed {name}: {'removed' if cluster.down(name) else 'was not there'}")
    return 0


def _status(_: argparse.Namespace) -> int:
    beds = all_beds()
    for state in beds:
        condition = "running" if state.running() else "broken"
        owner = f", owned by process {state.owner.pid}" if state.owner else ""
        print(f"bed {state.name}: {condition}{owner}")
        for entry in state.plan.clusters:
            nodes = ", ".join(f"{node.name} {node.address}" for node in entry.nodes)
            print(f"  context {entry.name}  {entry.server}  nodes: {nodes}")
        print(f"  kubeconfig {state.folder / 'kubeconfig'}")
    if not beds:
        print("no beds")
    return 0


def _leftovers(arguments: argparse.Namespace) -> int:
    found = leftovers(arguments.name)
    for line in found:
        print(line)
    return 1 if found else 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(cluster.find(arguments.name).kubeconfig)
    return 0


def _load_image(arguments: argparse.Namespace) -> int:
    bed = cluster.find(arguments.name)
    for archive in arguments.archive:
        if not archive.exists():
            raise TestbedError(f"there is no {archive}")
        for entry in bed.clusters:
            entry.load_image(archive.resolve())
            say(f"{entry.name}: loaded {archive}")
    return 0


def _product_image(arguments: argparse.Namespace) -> int:
    print(images.product_image(arguments.repository.resolve(), arguments.image))
    return 0


def _load_balancers(arguments: argparse.Namespace) -> int:
    for entry in cluster.find(arguments.name).clusters:
        for service, address in entry.assign_load_balancers().items():
            print(f"{entry.name} {service} {address}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    def add_for_bed(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = add(name, command, text)
        added.add_argument("--name", default=DEFAULT_NAME, help="the bed (default: %(default)s)")
        return added

    def add_istio_version(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--istio-version",
            default=programs.ISTIO_VERSION,
            metavar="VERSION",
            help="what Istio's programs say they are, and their images' tag (default: %(default)s)",
        )

    add("prereqs", _prereqs, "install the Debian packages that are missing")
    build = add("build", _build, "build programs and images, as far as they are missing or changed")
    add_istio_version(build)
    build.add_argument("extra", nargs="*", metavar="PROGRAM", help="also build these: istioctl, metrics-server, kwok")
    up = add_for_bed("up", _up, "start a bed and leave it running")
    up.add_argument("--clusters", type=int, default=1, metavar="N", help="one to three (default: 1)")
    up.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of each cluster, one or two (default: 1)")
    up.add_argument("--flat", action="store_true", help="route between the pods of all clusters")
    up.add_argument("--metrics-server", action="store_true", help="serve the metrics API too")
    add_istio_version(up)
    down = add_for_bed("down", _down, "remove every trace of a bed")
    down.add_argument("--all", action="store_true", help="of every bed")
    add("status", _status, "list the beds")
    left = add("leftovers", _leftovers, "list what remains of beds that do not run; fails if there is anything")
    left.add_argument("--name", help="list what there is of this bed, running or not")
    add_for_bed("kubeconfig", _kubeconfig, "print the path of a bed's kubeconfig")
    load = add_for_bed("load-image", _load_image, "import image archives into every node of a bed")
    load.add_argument("archive", nargs="+", type=Path, help="an OCI or Docker archive")
    product = add("product-image", _product_image, "build the product's image from its Dockerfile; print the archive")
    product.add_argument(
        "--repository", type=Path, default=Path(__file__).parents[2], help="the folder with Dockerfile"
    )
    product.add_argument("--image", required=True, metavar="NAME:TAG")
    add_for_bed("load-balancers", _load_balancers, "give an address to LoadBalancer Services that wait for one")
    return parser


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
