"""A mesh from nothing, step by step, with what a person would look at after each step."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from testbed import backends, programs
from testbed.backends import Backend, KubeconfigBackend
from testbed.console import TestbedError, step
from testbed.images import APP_IMAGE
from testbed.product import ROOT, Product, eventually, operator_image_name

QUICKSTART = ROOT / "examples/quickstart.yaml"
PODS = 2  # with a sidecar, in APPS
APPS = Path(__file__).with_name("apps.yaml")
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def main() -> int:
    backend = backends.choose("demo", owned=False)
    try:
        if sys.argv[1:] == ["down"]:
            remove(backend)
        else:
            demonstrate(backend)
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; `make down` removes what is running", file=sys.stderr)
        return 130
    return 0


def demonstrate(backend: Backend) -> None:
    if isinstance(backend, KubeconfigBackend):
        print(f"this cluster must be able to pull {operator_image_name()} and {APP_IMAGE}", file=sys.stderr)
    with step("cluster"):
        backend.up()
    product = Product(backend)
    product.install()
    install_mesh(product, backend)
    deploy(product)
    show_traffic(product)
    show_mesh(product, backend)


def remove(backend: Backend) -> None:
    """The cluster; of a cluster that was there before, what the demo put into it."""
    if isinstance(backend, KubeconfigBackend):
        backend.up()
        product = Product(backend)
        with step("remove the demo's workloads, mesh and operator"):
            product.kubectl("delete", "-f", str(APPS), "--ignore-not-found", "--timeout=120s", timeout=130)
            product.delete_mesh("quickstart")
            # Its root goes with the operator's namespace, so what rests on that root must go too.
            product.kubectl("-n", "istio-system", "delete", "secret", "-l", "meshwright.dev/mesh=quickstart")
            product.uninstall()
    else:
        with step("remove the demo's cluster"):
            backend.down()


def install_mesh(product: Product, backend: Backend) -> None:
    mesh = yaml.safe_load(QUICKSTART.read_text())
    heading(f"{QUICKSTART.relative_to(ROOT)}")
    print(QUICKSTART.read_text())
    if backend.mesh_patch:
        heading("the local data plane is an upstream Envoy, so this patch is applied on top")
        print(yaml.safe_dump(backend.mesh_patch, sort_keys=False))
    with step("mesh: kubectl apply, wait for Ready"):
        product.apply(product.mesh(mesh))
        product.wait_ready(mesh["metadata"]["name"])


def deploy(product: Product) -> None:
    with step("two workloads in the mesh, one outside"):
        product.kubectl("apply", "-f", str(APPS))
        for deployment in ("web", "client"):
            rollout = ("rollout", "status", f"deployment/{deployment}", "--timeout=120s")
            product.kubectl("-n", "demo", *rollout, timeout=130)
        product.kubectl(
            "-n", "demo-outside", "wait", "pod/client", "--for=condition=Ready", "--timeout=60s", timeout=70
        )
    heading("kubectl -n demo get pods      (2/2: each has its sidecar)")
    print(product.kubectl("-n", "demo", "get", "pods"))


def show_traffic(product: Product) -> None:
    curl = ("exec", "deploy/client", "-c", "app", "--", "curl", "-sS", "--max-time", "5")
    heading("a request inside the mesh: answered, over mutual TLS")
    ask: Callable[[], str] = lambda: product.kubectl("-n", "demo", *curl, "http://web/hello")  # noqa: E731
    identity = json.loads(ask())["headers"].get("x-forwarded-client-cert", "")
    print("  client → web: 200, and web's sidecar saw the caller's certificate:")
    print(f"  {identity.rpartition(';')[2] or 'no certificate: this is a defect'}\n")
    if "URI=spiffe://" not in identity:
        raise TestbedError("the request inside the mesh was not over mutual TLS")

    heading("the same request in plaintext, from outside the mesh: refused, as mtls is Strict")
    outside = ("-n", "demo-outside", "exec", "client", "--", "curl", "-sS", "--max-time", "5", "http://web.demo/hello")
    try:
        answer = product.kubectl(*outside)
    except TestbedError as refused:
        words = next((line.strip() for line in str(refused).splitlines() if "curl:" in line), str(refused))
        print(f"  {words}\n")
    else:
        raise TestbedError(f"plaintext was answered in a Strict mesh: {answer}")


def show_mesh(product: Product, backend: Backend) -> None:
    if not eventually(lambda: product.get("mesh", "quickstart")["status"].get("proxies") == PODS, seconds=40):
        raise TestbedError(f"the mesh does not count its {PODS} proxies", "kubectl get mesh quickstart -o yaml")
    heading("kubectl get mesh")
    print(product.kubectl("get", "mesh"))
    heading("what to try next")
    if shutil.which("kubectl") is None:
        print(f"  alias kubectl={programs.kubectl()}")
    print(f"""  export KUBECONFIG={backend.kubeconfig}
  kubectl get mesh quickstart -o yaml                  conditions, certificates, clusters
  kubectl -n istio-system delete deployment istiod     it comes back
  kubectl patch mesh quickstart --type=merge -p '{{"spec":{{"version":"1.40.0"}}}}'
                                                       a clear refusal, and nothing is touched
  .venv/bin/kubectl-mesh render examples/quickstart.yaml
                                                       every object that the mesh consists of
  make down                                            remove the cluster
""")


def heading(text: str) -> None:
    sys.stderr.flush()
    print(f"{BOLD}── {text}{PLAIN}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
