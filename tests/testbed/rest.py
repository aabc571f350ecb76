"""A few requests to an API server with the standard library: enough to wait for it and to patch a status."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .console import TestbedError


class Client:
    """The API server that the current context of a kubeconfig of the test bed points to."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:  # the standard library takes client certificates as files only
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def merge_patch(self, path: str, patch: object) -> Any:
        return self._request("PATCH", path, json.dumps(patch).encode(), "application/merge-patch+json")

    def ready(self) -> bool:
        try:
            self._send("GET", "/readyz", seconds=2)
        except (OSError, TestbedError):
            return False
        return True

    def _request(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        return json.loads(self._send(method, path, body, kind))

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        *,
        seconds: float = 10,
    ) -> bytes:
        request = urllib.request.Request(self.server + path, body, {"Content-Type": kind}, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read()[:300].decode(errors="replace")
            raise TestbedError(f"{method} {path}: {error.code} {said}") from error
        return content


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float,
    pause: float = 0.25,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Asks until the condition holds; an answer that fails means not yet. Gives up on what is not alive."""
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        if not alive():
            raise TestbedError(f"{what} will not happen: the node ended")
        try:
            if condition():
                return
        except (OSError, TestbedError, KeyError) as error:
            last = f": {error}"
        time.sleep(pause)
    raise TestbedError(f"{what} did not happen within {seconds:.0f} seconds{last}")
