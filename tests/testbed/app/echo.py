"""What test workloads run: answers every request with a line of JSON: who answers, and what it was asked.

Environment: PORT (8080), TCP_PORT (9000; a line in, the same line out), VERSION and CLUSTER (free words of
the answer).
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHO = {
    "pod": socket.gethostname(),
    "version": os.environ.get("VERSION", ""),
    "cluster": os.environ.get("CLUSTER", ""),
}


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status = int(self.path.removeprefix("/status/")) if self.path.startswith("/status/") else 200
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = json.dumps({**WHO, "path": self.path, "method": self.command, "headers": headers}) + "\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server finds them by these names

    def log_message(self, *_: object) -> None:
        pass


class Line(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


socketserver.ThreadingTCPServer.allow_reuse_address = True
ThreadingHTTPServer.daemon_threads = True
tcp = socketserver.ThreadingTCPServer(("", int(os.environ.get("TCP_PORT", "9000"))), Line)
threading.Thread(target=tcp.serve_forever, daemon=True).start()
ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Echo).serve_forever()
