"""The MeshInstalls of an API server, by way of pykube: a fifth of a second, where the operator's client takes half of
one to be imported.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, Self

import pykube
import requests

from meshwright.api.errors import FinalError, MeshwrightError, NotFound, Unreachable
from meshwright.cli.kubeconfig import Access, merged
from meshwright.cluster.failures import classify

Json = dict[str, Any]

# As `cluster.kinds` has it, without the tenth of a second that its models take to be imported.
API_VERSION, KIND, PLURAL = "meshwright.dev/v1alpha1", "MeshInstall", "meshinstalls"

ERROR = 400
SECONDS = 10.0
WATCH_SECONDS = 300
WHAT = "read the MeshInstalls"
ACTIONS = "meshactions"


class Server:
    """Reads only. Every method raises errors of `meshwright.api.errors`; use it in a `with` block."""

    def __init__(self, access: Access) -> None:
        self._stack = ExitStack()
        # pykube writes credentials to where temporary files are; a folder of our own keeps them from others' eyes.
        tempfile.tempdir = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kubectl-mesh-"))
        try:
            config = _config(access)
            self._http = pykube.HTTPClient(config, timeout=SECONDS)
            if proxy := config.cluster.get("proxy-url"):
                self._http.session.proxies = {"http": proxy, "https": proxy}
        except (pykube.PyKubeError, KeyError, TypeError, ValueError) as error:
            self._close()
            raise FinalError(f"no way to a cluster: {error}") from None
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.session.close()
        self._close()

    def _close(self) -> None:
        tempfile.tempdir = None
        self._stack.close()

    def meshes(self, name: str | None = None) -> tuple[list[Json], str]:
        """All MeshInstalls by name, or the one that is asked for; and the resourceVersion of the collection."""
        answer = self._ask()
        found = sorted(answer["items"] or (), key=lambda each: str(each["metadata"]["name"]))
        head = {"apiVersion": API_VERSION, "kind": KIND}
        meshes = [{**head, **each} for each in found if name in (None, each["metadata"]["name"])]
        if name and not meshes:
            raise NotFound(no_such_mesh(name, [each["metadata"]["name"] for each in found]))
        return meshes, answer["metadata"]["resourceVersion"]

    def actions(self) -> list[Json]:
        """All MeshActions, oldest first; none where their kind is not installed."""
        with _reaching(self._http.url):
            answer = self._http.get(version=API_VERSION, url=ACTIONS)
            if answer.status_code == requests.codes.not_found:
                return []
            if answer.status_code >= ERROR:
                raise classify(answer.status_code, answer.content, answer.headers, what="read the MeshActions")
            found = answer.json()["items"] or ()
        return sorted(found, key=lambda each: (str(each["spec"].get("decided")), str(each["metadata"]["name"])))

    def changes(self, version: str) -> Iterator[None]:
        """Something, whenever a MeshInstall has changed since `version`; ends after some minutes, or an error."""
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        with _reaching(self._http.url):
            answer = self._get(query, stream=True, timeout=(SECONDS, WATCH_SECONDS + SECONDS))
            if answer.status_code >= ERROR:
                return
            with answer:
                for line in answer.iter_lines(chunk_size=1):
                    if not line or json.loads(line).get("type") == "ERROR":
                        return
                    yield

    def _ask(self) -> Json:
        with _reaching(self._http.url):
            answer = self._get({})
            if answer.status_code == requests.codes.not_found:
                raise NotFound(
                    f"the API server {self._http.url} knows no MeshInstall: install Meshwright first"
                    " (kubectl apply -k manifests/default), or choose another --context"
                )
            if answer.status_code >= ERROR:
                raise classify(answer.status_code, answer.content, answer.headers, what=WHAT)
            found = answer.json()
        if not isinstance(found, dict) or "items" not in found:
            raise FinalError(f"{self._http.url} is no API server of Kubernetes: its answer is no list")
        return found

    def _get(self, query: dict[str, str], **more: Any) -> requests.Response:
        answer: requests.Response = self._http.get(version=API_VERSION, url=PLURAL, params=query, **more)
        return answer


def no_such_mesh(name: str, names: list[str]) -> str:
    nearest = get_close_matches(name, names, 1, 0.5)
    if nearest:
        return f"no mesh {name}: did you mean {nearest[0]}?"
    return f"no mesh {name}: there {'is ' + ', '.join(names) if names else 'is none in this cluster'}"


def _config(access: Access) -> Any:
    if not access.files:
        return pykube.KubeConfig.from_service_account()
    return pykube.KubeConfig(merged(access))


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except MeshwrightError:
        raise
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        raise FinalError(f"the credential plugin failed: `{command}` ended with {error.returncode}") from None
    except FileNotFoundError as error:
        raise FinalError(f"the credential plugin {error.filename} is not there: install it") from None
    except (requests.RequestException, OSError) as error:
        raise Unreachable(
            f"the API server {url} does not answer ({_cause(error)}): is the cluster up, and the context the right one?"
        ) from None
    except (NotImplementedError, ImportError, ValueError, KeyError, pykube.PyKubeError) as error:
        raise FinalError(f"cannot use the credentials of the kubeconfig, or the answer: {error}") from None


def _cause(error: BaseException) -> str:
    """The innermost words: around them are several libraries' own."""
    if isinstance(error, requests.Timeout):
        return "timed out"
    below = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    for each in below:
        if isinstance(each, BaseException):
            return _cause(each)
    return (getattr(error, "strerror", None) if isinstance(error, OSError) else None) or str(error)
