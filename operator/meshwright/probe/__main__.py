"""`python -m meshwright.probe CLUSTER PORT [PEER=URL …]`: says where it runs, and asks the probes of other clusters.

`GET /` answers `{"cluster": CLUSTER}`; `GET /reach` answers, by peer, what the last requests to it came to.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import NoReturn

WINDOW = 10  # requests, the last ones
PAUSE = 0.2  # seconds between two of them
PATIENCE = 2.0  # seconds for each
ANSWER_BYTES = 1024


class Peer:
    """The probe of another cluster, asked over and over, each time on a connection of its own."""

    def __init__(self, cluster: str, url: str) -> None:
        self.cluster, self._url = cluster, url
        self._seen: deque[tuple[float, str]] = deque(maxlen=WINDOW)  # seconds, and what went wrong

    def keep_asking(self) -> None:
        while True:
            self.ask()
            time.sleep(PAUSE)

    def ask(self) -> None:
        started = time.monotonic()
        try:
            with urllib.request.urlopen(self._url, timeout=PATIENCE) as answer:  # noqa: S310 - the operator names it
                who = json.loads(answer.read(ANSWER_BYTES))["cluster"]
            failure = "" if who == self.cluster else f"cluster {who} answered in its place"
        except (OSError, ValueError, KeyError, TypeError) as error:
            failure = str(error) or type(error).__name__
        self._seen.append((time.monotonic() - started, failure))

    def summary(self) -> dict[str, object]:
        """`failure` is the newest one of those requests."""
        seen = list(self._seen)
        passed = [seconds for seconds, failure in seen if not failure]
        failures = [failure for _, failure in seen if failure]
        return {
            "requests": WINDOW,
            "passed": len(passed),
            "medianMs": round(median(passed) * 1000, 1) if passed else None,
            "failure": failures[-1] if failures else "",
        }


class Server(ThreadingHTTPServer):
    """On all addresses, of both families where there are two."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, cluster: str, port: int, peers: list[Peer]) -> None:
        self.cluster, self.peers = cluster, peers
        super().__init__(("", port), Handler)

    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/reach":
            self._answer({peer.cluster: peer.summary() for peer in self.server.peers})
        else:
            self._answer({"cluster": self.server.cluster})

    def _answer(self, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Five lines a second would say nothing."""


def main(cluster: str, port: str, *peers: str) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container has no default
    asked = [Peer(name, url) for name, _, url in (each.partition("=") for each in peers)]
    for peer in asked:
        threading.Thread(target=peer.keep_asking, daemon=True, name=peer.cluster).start()
    Server(cluster, int(port), asked).serve_forever()
    raise AssertionError


if __name__ == "__main__":
    main(*sys.argv[1:])
