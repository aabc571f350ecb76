"""kubectl mesh: what people type, what they read, and exit codes."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshes import REPOSITORY, manifest, rendered
from meshwright import __version__
from meshwright.cli.main import main, parser

Json = dict[str, Any]

QUICKSTART = REPOSITORY / "examples/quickstart.yaml"


def write(folder: Path, *documents: Any) -> str:
    path = folder / "mesh.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_render_prints_the_operators_own_objects_in_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec: Json = {"revision": "canary", "controlPlane": {"env": {"A": "line\nline: {{ x }}"}}}
    assert main(["render", write(tmp_path, manifest(**spec))]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    expected = [each.manifest for each in rendered(**spec)]
    for each in expected:  # without a cluster there is no root yet
        if each["kind"] == "Deployment":
            each["spec"]["template"]["metadata"]["annotations"]["meshwright.dev/root-fingerprint"] = "not-made-yet"
    assert printed == expected


def test_json_holds_the_same_as_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, manifest())
    assert main(["render", path]) == 0
    as_yaml = list(yaml.safe_load_all(capsys.readouterr().out))
    assert main(["render", path, "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["items"]) == ("List", as_yaml)


def test_the_injection_template_is_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["render", write(tmp_path, manifest())])
    assert "\n  config: |\n" in capsys.readouterr().out


def test_kinds_of_istio_are_printed_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, manifest())
    main(["render", path, "-o", "json"])
    without = json.loads(capsys.readouterr().out)["items"]
    main(["render", path, "-o", "json", "--crds"])
    items = json.loads(capsys.readouterr().out)["items"]
    crds = [each for each in items if each["kind"] == "CustomResourceDefinition"]
    assert items == [*crds, *without]
    assert crds


def test_several_meshes_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, manifest("a"), None, manifest("b", revision="b", namespace="b"))
    assert main(["render", path]) == 0
    found = list(yaml.safe_load_all(capsys.readouterr().out))
    namespaces = [each["metadata"]["name"] for each in found if each["kind"] == "Namespace"]
    assert namespaces == ["istio-system", "b"]
    meshes = [each["metadata"]["labels"]["meshwright.dev/mesh"] for each in found if each["kind"] != "Namespace"]
    assert meshes == sorted(meshes)
    assert [meshes.count(name) + 1 for name in "ab"] == [len(rendered()), len(rendered(revision="b"))]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(manifest())))
    assert main(["render", "-"]) == 0
    assert capsys.readouterr().out.startswith("---\n")


def test_a_file_is_read_as_kubectl_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML is a way to write JSON: dates are text, keys are text, what is shared is written out."""
    path = tmp_path / "mesh.yaml"
    head = yaml.safe_dump({key: value for key, value in manifest().items() if key != "spec"})
    shared = "defaultServiceExportTo: &x ['.'], defaultVirtualServiceExportTo: *x"
    fields = f"{shared}, ingressClass: 2026-01-02, defaultConfig: {{proxyMetadata: {{5: e}}}}"
    path.write_text(f"{head}spec: {{version: 1.31.4, meshConfig: {{{fields}}}}}\n")
    assert main(["render", str(path), "-o", "json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    (mesh,) = [each["data"]["mesh"] for each in items if each["metadata"]["name"] == "istio"]
    assert "&" not in mesh
    found = yaml.safe_load(mesh)
    assert found["defaultServiceExportTo"] == found["defaultVirtualServiceExportTo"] == ["."]
    assert found["ingressClass"] == "2026-01-02"
    assert found["defaultConfig"]["proxyMetadata"]["5"] == "e"


ERRORS: list[tuple[str, str | bytes, str]] = [
    # case, content of the file, a part of the message
    ("empty", "", "holds no MeshInstall"),
    ("comments only", "# nothing\n---\n", "holds no MeshInstall"),
    ("not YAML", "a: [1\nb: }", "mesh.yaml is not YAML: "),
    ("not text", b"\xff\xfe\x00", "is not text"),
    ("control characters", "a: \x01", "is not YAML"),
    ("a list", "- a\n- b\n", "holds list where a MeshInstall should be"),
    ("a word", "mesh", "holds str where a MeshInstall should be"),
    ("a tag of Python's", "!!python/object/apply:os.system ['true']", "is not YAML"),
    ("a part of itself", "&a {a: *a}", "has no form as JSON"),
    ("a list as a key", "{[1, 2]: a}", "is not YAML"),
    ("a date as a key", "{2026-01-01: a}", "has no form as JSON"),
    ("another kind", "apiVersion: v1\nkind: Pod\n", "not a meshwright.dev/v1alpha1 MeshInstall but v1 Pod"),
    ("no metadata", yaml.safe_dump({**manifest(), "metadata": None}), "metadata.name is missing"),
    ("metadata of another shape", yaml.safe_dump({**manifest(), "metadata": [1]}), "metadata.name is missing"),
    ("unknown field", yaml.safe_dump(manifest(mtsl="Strict")), "spec.mtsl: no such field"),
    ("a field in Python's spelling", yaml.safe_dump(manifest(mesh_config={})), "spec.mesh_config: no such field"),
    ("wrong value", yaml.safe_dump(manifest(mtls="on")), "spec.mtls: Input should be 'Permissive' or 'Strict'"),
    ("unsupported version", yaml.safe_dump(manifest(version="1.20.0")), "spec.version 1.20.0 is not supported"),
    ("contradiction", yaml.safe_dump(manifest(controlPlane={"resources": {"requests": {"cpu": 9}}})), "lower the"),
    ("computed key", yaml.safe_dump(manifest(meshConfig={"trustDomain": "a"})), "spec.meshConfig.trustDomain"),
    ("the second of two", yaml.safe_dump_all([manifest(), manifest("b", mtls="on")]), "MeshInstall b: spec.mtls"),
]


@pytest.mark.parametrize(("content", "says"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_an_error_is_one_line_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes, says: str
) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["render", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(("path", "says"), [("missing.yaml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, says: str) -> None:
    assert main(["render", str(tmp_path / path)]) == 1
    assert capsys.readouterr().err == f"error: cannot read {tmp_path / path}: {says}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["render"], ["render", "a", "-o", "xml"], ["render", "a", "b"], ["status", "--color", "red"]],
)
def test_wrong_usage_is_an_error_and_no_difference(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    assert "usage: kubectl mesh" in capsys.readouterr().err


VERBS = ("status", "plan", "diff", "proxies", "explain", "render")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_is_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"kubectl-mesh {__version__}\n"


def test_every_verb_says_what_it_does() -> None:
    (verbs,) = [action for action in parser()._actions if action.metavar == "VERB"]  # noqa: SLF001
    assert isinstance(verbs, argparse._SubParsersAction)  # noqa: SLF001
    assert all(len(each.help or "") > 20 for each in verbs._get_subactions())  # noqa: SLF001
    assert {each.dest for each in verbs._get_subactions()} == set(verbs.choices)  # noqa: SLF001


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("meshwright.cli.render.run", interrupt)
    assert main(["render", write(tmp_path, manifest())]) == 130


# In a process of its own


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments], capture_output=True, text=True, check=False
    )


HEAVY = ("aiohttp", "cryptography", "kopf", "kubernetes", "prometheus_client", "pykube")


def test_it_starts_without_what_only_the_operator_needs() -> None:
    program = f"""
import sys
from meshwright.cli.main import main, parser
parser()
assert not [name for name in {(*HEAVY, "jinja2", "pydantic", "yaml")} if name in sys.modules], "for --help"
assert main(["explain"]) == 0
assert not [name for name in {(*HEAVY, "jinja2", "pydantic")} if name in sys.modules], "for explain"
assert main(["render", sys.argv[1]]) == 0
assert not [name for name in {HEAVY} if name in sys.modules], "for render"
"""
    done = run(program, str(QUICKSTART))
    assert (done.returncode, done.stderr) == (0, "")


def test_status_starts_without_the_operators_client() -> None:
    program = f"""
import sys
import meshwright.cli.main, meshwright.cli.server, meshwright.cli.status, meshwright.cli.terminal
heavy = set({HEAVY}) - {{"pykube"}} | {{"jinja2", "pydantic"}}
assert not [name for name in heavy if name in sys.modules]
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("wanted", [0, 1, 10_000])
def test_a_reader_that_has_enough_is_no_error(wanted: int) -> None:
    """Whether it goes before the first byte or before the last, Python must not complain either."""
    command = [sys.executable, "-m", "meshwright.cli.main", "render", str(QUICKSTART), "--crds"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(wanted)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_a_short_answer_to_a_reader_that_is_gone_is_no_error() -> None:
    program = """
import os, sys
from meshwright.cli import main
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
class Options:
    run = staticmethod(lambda options: print("short") or 0)
class Parser:
    parse_args = staticmethod(lambda arguments: Options)
main.parser = Parser
sys.exit(main.main([]))
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
