"""`kubectl mesh VERB`: the verbs, their exit codes, and errors in plain words.

Exit codes: 0 done (in sync, ready), 1 an error (wrong usage, too), 2 a difference (not ready), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from meshwright import __version__
from meshwright.api.errors import Forbidden, MeshwrightError

# The errors are the operator's; at a terminal, it is a person who lacks a permission.
OPERATORS_WORDS = (
    ("apply the operator's manifests again, or grant this verb to its service account",
     "ask for this permission, or use a context that has it"),
    ("does not accept the operator's credentials", "does not accept your credentials"),
)  # fmt: skip
DRY_RUN = "a dry run needs the permissions to write; without them, set `spec.mode: Plan` and read `kubectl mesh status`"


def main(arguments: Sequence[str] | None = None) -> int:
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a message may hold any letter
    options = parser().parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()  # here, where a reader that is gone is no error
    except MeshwrightError as error:
        print(f"error: {plain(error, dry_run=options.verb in ('plan', 'diff'))}", file=sys.stderr)
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


def plain(error: MeshwrightError, *, dry_run: bool) -> str:
    text = str(error)
    for theirs, yours in OPERATORS_WORDS:
        text = text.replace(theirs, yours)
    return f"{text}; {DRY_RUN}" if dry_run and isinstance(error, Forbidden) else text


class Parser(argparse.ArgumentParser):
    """Wrong usage is an error like every other: 2 means a difference."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="kubectl mesh", description="Look at and work with Istio meshes that Meshwright runs.")
    top.add_argument("--version", action="version", version=f"kubectl-mesh {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)

    status = verbs.add_parser(
        "status",
        help="show whether a mesh is ready, what it consists of, and what to do next",
        description="Show of each mesh its conditions, what to do where one is not as it should be, and of each cluster"
        " istiod, proxies, injection, gateways and certificates. One request: all of it is the MeshInstall's status,"
        " which the operator keeps up to date. The exit code is 2 when a mesh is not ready, or there is none.",
    )
    name(status, "the mesh; without it, all of them")
    status.add_argument("-w", "--watch", action="store_true", help="go on, and show each change until interrupted")
    cluster(status)
    form(status)
    status.set_defaults(run=_status)

    plan = verbs.add_parser(
        "plan",
        help="show what the operator would change, and what that does to pods and proxies",
        description="Show which objects the operator would create, change and delete, which pods restart, which proxies"
        " are touched, and how much CPU and memory is requested in addition. The API server computes it in dry runs of"
        " the operator's own requests; nothing is written. Needs the permissions to write. The exit code is 2 when"
        " something would change.",
    )
    subject(plan)
    form(plan)
    plan.set_defaults(run=_plan)

    diff = verbs.add_parser(
        "diff",
        help="show line by line what the operator would change",
        description="Show each object that the operator would create, change or delete, as it is against as it would"
        " be, as a unified diff of YAML; it is computed like a plan. What the API server keeps for itself (status,"
        " managed fields, versions) is left out, and a Secret's data is never shown. The exit code is 2 when something"
        " would change.",
    )
    subject(diff)
    diff.add_argument("--crds", action="store_true", help="also show Istio's CRDs in full (about 1 MB)")
    form(diff)
    diff.set_defaults(run=_diff)

    check = verbs.add_parser(
        "check",
        help="check whether the clusters of a MeshInstall can be joined, before it is applied",
        description="Check the MeshInstalls in FILE and the clusters that they name, by the kubeconfigs in the"
        " operator's namespace: whether they answer, what may be done there, whether they are distinct, versions, pod"
        " ranges, roots and clocks. The operator makes the same checks all the time. Nothing is written; needs the"
        " permission to read those Secrets. The exit code is 2 when a check fails.",
    )
    check.add_argument("file", metavar="FILE", help="a manifest with one or more MeshInstalls; - for standard input")
    operators_place(check)
    cluster(check)
    form(check)
    check.set_defaults(run=_check)

    proxies = verbs.add_parser(
        "proxies",
        help="list the proxies of a mesh, or the pods that should have one",
        description="List the pods with a proxy of a mesh: their revision and version, and whether they have the newest"
        " configuration, as every istiod says. Asking istiod takes the permission to forward a port of its pods; what"
        " cannot be asked is left out, and said. The exit code is 2 when a proxy is not in sync, or with --missing when"
        " a pod lacks its sidecar.",
    )
    name(proxies, "the mesh; without it, the only one there is")
    proxies.add_argument(
        "--missing", action="store_true", help="list the pods that are to have a sidecar, and have none or another one"
    )
    proxies.add_argument(
        "--certificates", action="store_true", help="also ask each proxy when its certificate ends (one request each)"
    )
    proxies.add_argument("-n", "--namespace", help="only pods of this namespace")
    cluster(proxies)
    form(proxies)
    proxies.set_defaults(run=_proxies)

    explain = verbs.add_parser(
        "explain",
        help="explain a reason that a condition carries, and the next step; or `scaling`, of a mesh",
        description="Explain what a reason of a condition means, and what to do about it; or all reasons of a"
        " condition; that needs no cluster. `explain scaling` shows of a mesh its size, what comes next and at how many"
        " pods, what each scaling rule measures, why it acted or not, and the actions.",
    )
    explain.add_argument(
        "reason", metavar="REASON", nargs="?", help="a reason or a condition; without it, all of them; or scaling"
    )
    name(explain, "with scaling: the mesh; without it, all of them")
    cluster(explain)
    form(explain)
    explain.set_defaults(run=_explain)

    of_scaling(verbs)

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


def of_scaling(verbs: Any) -> None:
    """The verbs about what the scaling rules did. `verbs` is what argparse gives no public name to."""
    plot = verbs.add_parser(
        "plot",
        help="plot what the scaling rules measured in the last hours, and what was done",
        description="Plot of a mesh what each scaling rule measured, its threshold, the replicas, and when an action"
        " was taken or undone: in the terminal, or as a picture. The operator that leads remembers six hours, since it"
        " leads. Asking it takes the permission to forward a port of its pods.",
    )
    plot.add_argument("name", metavar="NAME", help="the mesh")
    plot.add_argument("--cluster", help="only this member cluster")
    plot.add_argument("--to", metavar="FILE", help="write an SVG picture there instead")
    operators_place(plot)
    cluster(plot)
    plot.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto",
        help="colours; auto has them on a terminal, unless NO_COLOR is set",
    )  # fmt: skip
    plot.set_defaults(run=_plot)

    replay = verbs.add_parser(
        "replay",
        help="make recorded scaling decisions again; needs no cluster",
        description="Make the decisions of the MeshActions in FILE again, from all that they rested on, and compare"
        " them byte for byte. Needs no cluster. The exit code is 2 when one comes out differently.",
    )
    replay.add_argument("file", metavar="FILE", help="MeshActions, as kubectl writes them; - for standard input")
    form(replay)
    replay.set_defaults(run=_replay)


def name(verb: argparse.ArgumentParser, text: str) -> None:
    verb.add_argument("name", metavar="NAME", nargs="?", help=text)


def subject(verb: argparse.ArgumentParser) -> None:
    """What a plan is about."""
    name(verb, "the mesh; without it, and without a file, the only one there is")
    verb.add_argument(
        "-f", "--filename", metavar="FILE", help="MeshInstalls as they would be applied; - for standard input"
    )
    operators_place(verb)
    cluster(verb)


def operators_place(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--operator-namespace", metavar="NAMESPACE", default="meshwright-system", help="where the operator runs"
    )


def cluster(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--kubeconfig", metavar="FILE", help="instead of KUBECONFIG or ~/.kube/config")
    verb.add_argument("--context", help="instead of the kubeconfig's current context")


def form(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="form of the output")
    verb.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto",
        help="colours; auto has them on a terminal, unless NO_COLOR is set",
    )  # fmt: skip


# Imported late: a verb starts without what only others need.


def _status(options: argparse.Namespace) -> int:
    from meshwright.cli.kubeconfig import access
    from meshwright.cli.status import run
    from meshwright.cli.terminal import terminal

    return run(
        options.name, access=access(options.kubeconfig, options.context), output=options.output, watch=options.watch,
        terminal=terminal(options.color),
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> int:
    from meshwright.cli.kubeconfig import access
    from meshwright.cli.plan import run
    from meshwright.cli.terminal import terminal

    return run(
        options.name, file=options.filename, access=access(options.kubeconfig, options.context),
        operator_namespace=options.operator_namespace, output=options.output, terminal=terminal(options.color),
    )  # fmt: skip


def _diff(options: argparse.Namespace) -> int:
    from meshwright.cli.diff import run
    from meshwright.cli.kubeconfig import access
    from meshwright.cli.terminal import terminal

    return run(
        options.name, file=options.filename, access=access(options.kubeconfig, options.context),
        operator_namespace=options.operator_namespace, output=options.output, crds=options.crds,
        terminal=terminal(options.color),
    )  # fmt: skip


def _check(options: argparse.Namespace) -> int:
    from meshwright.cli.check import run
    from meshwright.cli.kubeconfig import access
    from meshwright.cli.terminal import terminal

    return run(
        options.file, access=access(options.kubeconfig, options.context), operator_namespace=options.operator_namespace,
        output=options.output, terminal=terminal(options.color),
    )  # fmt: skip


def _proxies(options: argparse.Namespace) -> int:
    from meshwright.cli.kubeconfig import access
    from meshwright.cli.proxies import run
    from meshwright.cli.terminal import terminal

    return run(
        options.name, access=access(options.kubeconfig, options.context), missing=options.missing,
        certificates=options.certificates, namespace=options.namespace, output=options.output,
        terminal=terminal(options.color),
    )  # fmt: skip


def _explain(options: argparse.Namespace) -> int:
    from meshwright.cli.explain import run
    from meshwright.cli.terminal import terminal

    if options.reason == "scaling":
        from meshwright.cli import scaling
        from meshwright.cli.kubeconfig import access

        return scaling.run(
            options.name, access=access(options.kubeconfig, options.context), output=options.output,
            terminal=terminal(options.color),
        )  # fmt: skip
    return run(options.reason, output=options.output, terminal=terminal(options.color))


def _plot(options: argparse.Namespace) -> int:
    from meshwright.cli.kubeconfig import access
    from meshwright.cli.plot import run
    from meshwright.cli.terminal import terminal

    return run(
        options.name, cluster=options.cluster, access=access(options.kubeconfig, options.context),
        operator_namespace=options.operator_namespace, to=options.to, terminal=terminal(options.color),
    )  # fmt: skip


def _replay(options: argparse.Namespace) -> int:
    from meshwright.cli.replay import run
    from meshwright.cli.terminal import terminal

    return run(options.file, output=options.output, terminal=terminal(options.color))


def _render(options: argparse.Namespace) -> int:
    from meshwright.cli.render import run

    return run(options.file, output=options.output, crds=options.crds)


if __name__ == "__main__":
    sys.exit(main())
