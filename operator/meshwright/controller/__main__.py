"""`meshwright`: runs the operator."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from meshwright import __version__
from meshwright.api.errors import MeshwrightError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def main(arguments: Sequence[str] | None = None) -> int:
    started = time.time()
    options = parser().parse_args(arguments)

    from meshwright.controller import chassis, logs
    from meshwright.controller.replica import Replica

    logs.configure(options.log_level, as_json=options.log_format == "json")
    instance = socket.gethostname()  # in a pod, its name
    replica = Replica(
        namespace=options.namespace,
        instance=instance,
        identity=f"{instance}_{uuid.uuid4()}",  # a container that restarts in its pod is another replica
        port=options.port,
        version=__version__,
        started=started,
    )
    try:
        chassis.run(replica.mesh_changed, during=replica, prepare=replica.prepare, work=replica.work, instance=instance)
    except MeshwrightError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="meshwright", description="Runs the Meshwright operator.")
    top.add_argument("--version", action="version", version=f"meshwright {__version__}")
    top.add_argument(
        "--namespace", default=_namespace(), help="the operator's own, where root keys are kept (default: %(default)s)"
    )
    top.add_argument("--port", type=int, default=8080, help="of /metrics, /healthz and /readyz (default: %(default)s)")
    top.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    top.add_argument(
        "--log-format", choices=("text", "json"), default="text" if sys.stderr.isatty() else "json",
        help="default: text on a terminal, else json",
    )  # fmt: skip
    return top


def _namespace() -> str:
    if name := os.environ.get("POD_NAMESPACE"):
        return name
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "meshwright-system"


if __name__ == "__main__":
    sys.exit(main())
