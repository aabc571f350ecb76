"""Templates: the one place where they are loaded, and what keeps a value from breaking out of its YAML place."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from meshwright.api.errors import TemplateError
from meshwright.mesh.objects import Manifest

# JSON is YAML but for characters that YAML calls unprintable or takes for line breaks.
NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1, but for numbers such as 1e+20: JSON and YAML 1.2 write them without a dot."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+(\.[0-9]+)?[eE][-+]?[0-9]+$"), list("-0123456789")
)


def as_json(value: Any) -> str:
    """A value as JSON that is YAML too. Raises TypeError for what JSON has no form for (an undefined, say)."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises with the name of what is undefined
    return NOT_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


ASIDE = "values_put_aside"
MARK = "\ue000"  # of private use: no template has it
LONG = 256


@jinja2.pass_context  # also keeps constants from being finalized when a template is compiled
def finalize(context: jinja2.runtime.Context, value: Any) -> str:
    """A small value as JSON; a large one is put aside and stands as a mark, as YAML would take its time to read it."""
    large = len(value) > LONG or MARK in value if isinstance(value, str) else isinstance(value, list | tuple | dict)
    if not large:
        return as_json(value)
    aside: list[Any] = context[ASIDE]
    aside.append(json.loads(json.dumps(value)))  # JSON's types only, and nobody else's objects
    return f'"{MARK}{len(aside) - 1}{MARK}"'


def _restored(node: Any, aside: list[Any]) -> Any:
    """What stood in a template's places, with everything that was put aside."""
    if isinstance(node, str):
        return aside[int(node[1:-1])] if node.startswith(MARK) else node
    if isinstance(node, dict):
        return {_restored(key, aside): _restored(value, aside) for key, value in node.items()}
    return [_restored(each, aside) for each in node] if isinstance(node, list) else node


def static(path: str) -> str:
    """A file below templates/, verbatim."""
    return files("meshwright").joinpath("templates", *path.split("/")).read_text()


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML that people read in a ConfigMap, and that YAML 1.1 and 1.2 readers understand alike."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # Unquoted text can be a number or a boolean to the other version of YAML, so none is left unquoted.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else '"')


_Dumper.add_representer(str, _text)


def as_yaml(value: Any) -> str:
    """The content of a ConfigMap's key; the same value gives the same bytes."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=True, allow_unicode=False, width=1000)
    return text


def render(path: str, **values: Any) -> list[Manifest]:
    """The YAML documents of a template below templates/, in order. Raises TemplateError."""
    try:
        aside: list[Any] = []
        text = _environment().get_template(path).render(**values, **{ASIDE: aside})
        return [_restored(document, aside) for document in yaml.load_all(text, Loader=Loader) if document]
    except (jinja2.TemplateError, yaml.YAMLError, TypeError) as error:
        raise TemplateError(f"template {path}: {error}") from error


def compile_all() -> None:
    """Compiles every Jinja2 template, which otherwise the first render pays for."""
    for folder in files("meshwright").joinpath("templates").iterdir():
        for template in folder.iterdir():
            if template.name.endswith(".j2"):
                _environment().get_template(f"{folder.name}/{template.name}")


@cache
def _environment() -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(
        loader=jinja2.FunctionLoader(_source),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _source(path: str) -> str | None:
    try:
        return static(path)
    except OSError:
        return None


def istio_crds() -> tuple[str, tuple[Manifest, ...]]:
    """Istio's CRDs and the version of `istio.io/api` that they are from; the build puts them into the package."""
    resource = files("meshwright").joinpath("istio_api", "crds.json")
    try:
        document = json.loads(resource.read_text())
    except OSError:
        raise TemplateError("Istio's CRDs are missing here: build the wheel again, with Go on the PATH") from None
    return document["version"], tuple(document["items"])
