"""A proxy before an S3 server that misbehaves: refuses, breaks off, cuts short or alters what it passes on."""

import http.client
import http.server
import socket
import struct
import threading
from urllib.parse import urlsplit

REFUSALS = {"500": 500, "503": 503}
FAULTS = (*REFUSALS, "reset", "short", "altered")


class FaultyStore:
    """fault: what happens to requests of object bodies (PUT, GET below a bucket). times: how often, then all is well.

    met: how often it happened. bare: whether the store keeps no checksums of its own, as older ones do.
    """

    def __init__(self, upstream: str):
        self.upstream, self.fault, self.times, self.met = urlsplit(upstream).netloc, "", 0, 0
        self.bare = False
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def __getattr__(self, name):
                if not name.startswith("do_"):
                    raise AttributeError(name)
                return lambda: store.pass_on(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def set(self, fault: str, times: int) -> None:
        self.fault, self.times, self.met = fault, times, 0

    def pass_on(self, handler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = urlsplit(handler.path).path
        of_object = path.strip("/").count("/") > 0 and "list-type" not in handler.path
        due = of_object and handler.command in ("GET", "PUT") and self.times > 0
        if due and (self.fault not in ("short", "altered") or handler.command == "GET"):
            self.times, self.met = self.times - 1, self.met + 1
        else:
            due = False
        if due and self.fault in REFUSALS:
            return _answer(handler, REFUSALS[self.fault], [], b"")
        if due and self.fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            return handler.connection.close()
        upstream = http.client.HTTPConnection(self.upstream, timeout=30)
        headers = dict(handler.headers.items())  # Host with it: the signature counts it
        upstream.request(handler.command, handler.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        kept = [
            (k, v)
            for k, v in answer.getheaders()
            if k.lower() not in ("transfer-encoding", "connection", "content-length")
        ]
        if due and self.fault == "altered" and self.bare:
            kept = [(k, v) for k, v in kept if not k.lower().startswith("x-amz-checksum")]
        size = int(answer.headers.get("Content-Length") or len(content)) if handler.command == "HEAD" else len(content)
        if due and self.fault == "altered" and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if due and self.fault == "short":
            content = content[: len(content) // 2]
            handler.close_connection = True
        return _answer(handler, answer.status, kept, content, size)


def _answer(handler, status, headers, content, size=None) -> None:
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content) if size is None else size))
    handler.end_headers()
    handler.wfile.write(content)
