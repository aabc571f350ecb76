"""A few requests to an API server with nothing but the standard library: enough to wait for it and to patch a status."""

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
        with (
            tempfile.NamedTemporaryFile() as pair
        ):  # the standard library takes client certificates as files only
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
            self._request("GET", "/readyz", parse=False)
        except (OSError, TestbedError):
            return False
        return True

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        parse: bool = True,
    ) -> Any:
        request = urllib.request.Request(self.server + path, body, {"Content-Type": kind}, method=method)
        try:
            with self._opener.open(request, timeout=10) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise TestbedError(
                f"{method} {path}: {error.code} {error.read()[:300].decode(errors='replace')}"
            ) from error
        return json.loads(content) if parse else content.decode()


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float, pause: float = 0.25) -> None:
    """Asks until the condition holds; an answer that fails counts as not yet."""
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, TestbedError, KeyError) as error:
            last = f": {error}"
        time.sleep(pause)
    raise TestbedError(f"{what} did not happen within {seconds:.0f} seconds{last}")
