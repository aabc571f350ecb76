"""A server of gRPC's health protocol that says SERVING to everything, on port 9090: the part of HTTP/2 that takes.

Workloads run it as `python3 -c`, because their image has no gRPC.
"""

import socketserver

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM = ACK = 1
END_HEADERS = 4
# HPACK: an index of the static table, then literals that are not indexed, with a name of that table and with their own.
HEAD = b"\x88" + b"\x0f\x10" + b"\x10application/grpc"
TRAILERS = b"\x00" + b"\x0bgrpc-status" + b"\x010"
SERVING = b"\x00" + b"\x00\x00\x00\x02" + b"\x08\x01"  # uncompressed, of two bytes: field 1 is 1


class Health(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        self.send(SETTINGS, 0, 0)
        while len(head := self.rfile.read(9)) == 9:
            payload = self.rfile.read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.send(kind, ACK, 0, payload if kind == PING else b"")
            elif kind == DATA and flags & END_STREAM:
                self.send(HEADERS, END_HEADERS, stream, HEAD)
                self.send(DATA, 0, stream, SERVING)
                self.send(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS)

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.wfile.write(len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer(("", 9090), Health).serve_forever()
