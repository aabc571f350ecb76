"""A collector of traces in a page: takes OTLP over gRPC, answers each export, and prints the texts that are in it.

Runs in the image of the test workloads, where there is nothing but Python: of HTTP/2 it knows what Envoy needs.
"""

from __future__ import annotations

import re
import socketserver
import struct

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM = ACK = 1
END_HEADERS = 4
TEXT = re.compile(rb"[\x20-\x7e]{4,}")


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is in no table (RFC 7541, 6.2.2)."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


ANSWER = b"\x88" + literal(b"content-type", b"application/grpc")  # 0x88: `:status: 200`
EMPTY_MESSAGE = bytes(5)
TRAILERS = literal(b"grpc-status", b"0")


class Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        preface = self.rfile.read(24)
        print("preface", preface, flush=True)
        self.send(SETTINGS, 0, 0, b"")
        bodies: dict[int, bytes] = {}
        while head := self.rfile.read(9):
            length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
            payload = self.rfile.read(length)
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                self.send(PING, ACK, 0, payload)
            elif kind == DATA:
                bodies[stream] = bodies.get(stream, b"") + payload
                if length:
                    for of in (0, stream):
                        self.send(WINDOW_UPDATE, 0, of, struct.pack(">I", length))
            if kind in {DATA, HEADERS} and flags & END_STREAM:
                for text in TEXT.findall(bodies.pop(stream, b"")):
                    print("text", text.decode(), flush=True)
                self.send(HEADERS, END_HEADERS, stream, ANSWER)
                self.send(DATA, 0, stream, EMPTY_MESSAGE)
                self.send(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS)

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.wfile.write(len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer(("", 4317), Connection).serve_forever()
