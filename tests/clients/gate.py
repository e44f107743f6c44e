"""A way to the S3 endpoint that can be held: what makes "while it runs" a moment to test in."""

import socket
import threading
import urllib.parse


class Gate:
    """Forwards TCP; after so many bytes in a direction, holds that direction until `open`."""

    def __init__(self, endpoint: str, up_bytes: int | None = None, down_bytes: int | None = None):
        target = urllib.parse.urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        self._left = {"up": up_bytes, "down": down_bytes}
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._held = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_until_held(self, seconds: float = 30) -> bool:
        """Whether it came to hold something."""
        return self._held.wait(seconds)

    def open(self) -> None:
        """Lets everything pass, from now on."""
        self._opened.set()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target)
            for ends in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(1 << 16):
                self._pass(direction, len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The other side is gone; so is this connection.

    def _pass(self, direction: str, count: int) -> None:
        with self._lock:
            left = self._left[direction]
            if left is None or count <= left:
                self._left[direction] = None if left is None else left - count
                return
            self._left[direction] = 0
        if not self._opened.is_set():
            self._held.set()
            self._opened.wait()


def closed_port() -> str:
    """The address of a port that refuses connections as long as this process lives."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    _keep.append(bound)
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


_keep: list[socket.socket] = []
