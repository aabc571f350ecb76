"""`kubectl mesh VERB`: the verbs, their exit codes, and errors in plain words.

Exit codes: 0 done, 1 an error, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from meshwright import __version__
from meshwright.api.errors import MeshwrightError


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()  # here, where a reader that is gone is no error
    except MeshwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (a pager, head) has what it wanted; Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="kubectl mesh", description="Look at and work with Istio meshes that Meshwright runs."
    )
    top.add_argument("--version", action="version", version=f"kubectl-mesh {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    render = verbs.add_parser(
        "render",
        help="print the Kubernetes objects that a MeshInstall becomes; needs no cluster",
        description="Print the Kubernetes objects that the MeshInstalls in FILE become, in the order in which they are"
        " applied. Needs no cluster; never prints a key: objects carry a Secret's name only.",
    )
    render.add_argument("file", metavar="FILE", help="a manifest with one or more MeshInstalls; - for standard input")
    render.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="form of the output")
    render.add_argument("--crds", action="store_true", help="also print Istio's CRDs (about 1 MB)")
    render.set_defaults(run=_render)
    return top


def _render(options: argparse.Namespace) -> int:
    from meshwright.cli.render import run

    return run(options.file, output=options.output, crds=options.crds)


if __name__ == "__main__":
    sys.exit(main())
