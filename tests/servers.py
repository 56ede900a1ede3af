"""A web server for tests that fails in all the ways that servers and networks do."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebServer:
    """Serves the files of a folder, whole or in ranges, on a port of this machine, as long as it is in a ``with``.

    Attributes:
        requests: of each path, how often it was asked for.
        sent: bytes of each path that were sent.
        drop_every, stall_every: of all requests, every such many is cut off in the middle of its answer, or gets half
            of it and then nothing more; 0: none.
        status: what all requests are answered with; 200: as it should be.
        ranges: whether it takes notice of ranges.
        replaced: other contents of paths.
        gate: closed (cleared), it lets all answers wait.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.drop_every = self.stall_every = 0
        self.status = 200
        self.ranges = True
        self.replaced: dict[str, bytes] = {}
        self.gate = threading.Event()
        self.gate.set()
        self._stopping = threading.Event()
        self._port = 0
        self._count = 0
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> WebServer:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        self.gate.set()
        self.die()

    def start(self) -> None:
        """Begin to answer; on the same port where it has done so before."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self):
                super().setup()
                outer._connections.append(self.connection)

            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that has hung up
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Answer no more, and cut all connections."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.lstrip("/")
        with self._lock:
            self._count += 1
            count = self._count
            self.requests[path] += 1
        self.gate.wait()
        data = self.replaced.get(path)
        status = self.status
        if data is None and status == 200:
            file = self._folder / path
            status, data = (200, file.read_bytes()) if file.is_file() else (404, b"not found")
        wanted = request.headers.get("Range")
        whole = data or b""
        if wanted and self.ranges and status == 200:
            first, last = wanted.removeprefix("bytes=").split("-")
            status, data = 206, whole[int(first) : int(last) + 1]
            if int(first) >= len(whole):
                status, data = 416, b""
        data = data or b""
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        drops = self.drop_every and count % self.drop_every == 0
        stalls = self.stall_every and count % self.stall_every == 0
        if drops or stalls:
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            if stalls:
                self._stopping.wait(60)
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(data)
        with self._lock:
            self.sent[path] += len(data)
