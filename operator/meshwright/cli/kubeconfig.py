"""Which cluster, and as whom: kubeconfig files as kubectl reads them, in the form that pykube can use.

pykube knows one file only, no token files, and exec plugins of before v1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meshwright.api.errors import FinalError

Json = dict[str, Any]

LISTS = ("clusters", "users", "contexts")
FILES = {"cluster": ("certificate-authority",), "user": ("client-certificate", "client-key", "tokenFile")}
PLUGIN_OF_PYKUBE = "client.authentication.k8s.io/v1beta1"  # which has the form of v1
REMEDY = "set KUBECONFIG, or pass --kubeconfig, to a file that kubectl can use"


@dataclass(frozen=True)
class Access:
    """The way to a cluster."""

    files: tuple[Path, ...]  # none: the service account of this pod
    context: str | None = None

    @property
    def kubeconfig(self) -> str | None:
        """As the variable of that name holds it."""
        return os.pathsep.join(map(str, self.files)) or None


def access(kubeconfig: str | None, context: str | None, *, environment: Mapping[str, str] = os.environ) -> Access:
    """As kubectl chooses it: the option, KUBECONFIG, ~/.kube/config, the pod's service account. Raises FinalError."""
    if kubeconfig:
        if not Path(kubeconfig).expanduser().is_file():
            raise FinalError(f"no way to a cluster: {kubeconfig} is no file; {REMEDY}")
        return Access((Path(kubeconfig).expanduser(),), context)
    named = environment.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    paths = [Path(each).expanduser() for each in named.split(os.pathsep) if each]
    if files := tuple(path for path in paths if path.is_file()):
        return Access(files, context)
    if "KUBERNETES_SERVICE_HOST" in environment and not context:
        return Access(())
    raise FinalError(f"no way to a cluster: there is no {' or '.join(map(str, paths))}; {REMEDY}")


def merged(access: Access) -> Json:
    """One document of all files: of what has the same name, the first counts. Raises FinalError."""
    found: Json = {name: [] for name in LISTS}
    for path in access.files:
        document = _read(path)
        found.setdefault("current-context", document.get("current-context") or None)
        found["current-context"] = found["current-context"] or document.get("current-context")
        for name in LISTS:
            there = {each["name"] for each in found[name]}
            found[name] += [_absolute(each, path) for each in document.get(name) or () if each["name"] not in there]
    found["current-context"] = context = access.context or found.get("current-context")
    contexts = {each["name"]: each.get("context") or {} for each in found["contexts"]}
    if not context:
        raise FinalError(f"no way to a cluster: {access.kubeconfig} has no current context; pass --context")
    if context not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise FinalError(f"no way to a cluster: {access.kubeconfig} has no context {context!r}; there is: {known}")
    return _usable(found, contexts[context])


def _read(path: Path) -> Json:
    try:
        document = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506
        for name in LISTS:
            _ = [each["name"].strip() for each in document.get(name) or ()]
    except OSError as error:
        raise FinalError(f"no way to a cluster: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise FinalError(f"no way to a cluster: {path} is no kubeconfig; {REMEDY}") from None
    return dict(document)


def _absolute(entry: Json, path: Path) -> Json:
    """Files are named from where the kubeconfig is."""
    entry = dict(entry)
    for part, names in FILES.items():
        content = entry.get(part) or {}
        named = {name: str(path.parent / content[name]) for name in names if content.get(name)}
        if part in entry:
            entry[part] = {**content, **named}
    plugin = (entry.get("user") or {}).get("exec")
    if plugin and "/" in plugin.get("command", ""):
        entry["user"]["exec"] = {**plugin, "command": str(path.parent / plugin["command"])}
    return entry


def _usable(found: Json, context: Json) -> Json:
    clusters = {each["name"]: each.get("cluster") or {} for each in found["clusters"]}
    if context.get("cluster") not in clusters:
        raise FinalError(
            f"no way to a cluster: context {found['current-context']} is about cluster"
            f" {context.get('cluster')!r}, which no kubeconfig describes; {REMEDY}"
        )
    cluster = clusters[context["cluster"]]
    users = [{**each, "user": _user(each.get("user") or {}, cluster)} for each in found["users"]]
    return {**found, "users": users}


def _user(user: Json, cluster: Json) -> Json:
    if user.get("tokenFile") and not user.get("token"):
        path = Path(user["tokenFile"])
        return {**user, "token": path.read_text().strip()} if path.is_file() else user
    if plugin := user.get("exec"):
        spec: Json = {"interactive": sys.stdin.isatty()}
        if plugin.get("provideClusterInfo"):
            spec["cluster"] = cluster
        told = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": spec}
        told_by = {"name": "KUBERNETES_EXEC_INFO", "value": json.dumps(told)}
        environment = [*(plugin.get("env") or ()), told_by]
        return {**user, "exec": {**plugin, "apiVersion": PLUGIN_OF_PYKUBE, "env": environment}}
    return user
