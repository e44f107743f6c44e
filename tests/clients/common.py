"""What all the clients share: what they know of the daemon under test, and how checks are told.

A client prints one line per check, `ok  ...` or `FAIL ...`, and `ready` when only the daemon's end
is left to be seen; `run` counts them.
"""

import dataclasses
import json
import pathlib
import queue
import re
import sys
import threading
import time
import traceback

import grpc

MIB = 1 << 20
GIB = 1 << 30

# What others on this disk may take or free while we look.
SLACK = GIB

# No call takes longer, but for those that wait for an endpoint that does not answer.
CALL_SECONDS = 30

# What is no name of a volume, and why.
BAD_NAMES = {
    "empty": "",
    "too long": "x" * 128,
    "too long with its hyphens doubled": "x" + "-" * 50 + "x",
    "of a directory": "..",
    "with a leading hyphen": "-x",
    "with a slash": "a/b",
    "with a space": "a b",
    "not ASCII": "größe",
    "with LVM's prefix snapshot": "snapshot1",
    "with LVM's prefix pvmove": "pvmove0",
    **{f"with LVM's infix {infix}": f"x{infix}0" for infix in (
        "_tdata", "_tmeta", "_cdata", "_cmeta", "_mlog", "_mimage", "_rimage", "_rmeta",
        "_vorigin", "_pmspare",
    )},
}


@dataclasses.dataclass
class World:
    """The daemon under test and its surroundings, as `run` made them."""

    socket: str
    folders: dict[str, str]  # device class -> its folder; "alpha" is the default class
    spares: dict[str, int]  # device class -> its spare bytes
    endpoint: str
    access_key_id: str
    secret_access_key: str
    objects: str  # the endpoint's folder of the bucket "backups"

    @classmethod
    def read(cls, path: str) -> "World":
        return cls(**json.loads(pathlib.Path(path).read_text()))

    def channel(self, authority: str | None = "localhost") -> grpc.Channel:
        """`authority` is what HTTP/2 calls the host; None leaves it to gRPC, which takes the
        socket's path, percent-encoded."""
        options = [("grpc.default_authority", authority)] if authority else []
        return grpc.insecure_channel(f"unix:{self.socket}", options)

    def image(self, volume: str, device_class: str = "alpha") -> pathlib.Path:
        return pathlib.Path(self.folders[device_class], "volumes", volume, "image")


class Checks:
    """Says of each check whether it holds."""

    def __init__(self, client: str):
        self.client = client

    def that(self, what: str, holds: object, seen: object = "") -> None:
        """`what` is a sentence; `seen` is shown where it does not hold."""
        if holds:
            print(f"ok  {self.client}: {what}", flush=True)
        else:
            shown = re.sub(r"\s+", " ", str(seen))
            print(f"FAIL {self.client}: {what}; seen: {shown}", flush=True)

    def equal(self, what: str, seen: object, wanted: object) -> None:
        self.that(what, seen == wanted, f"{seen!r}, not {wanted!r}")

    def fails(self, what: str, code: str, call, request, *words: str) -> None:
        """The call ends with this code, and its message contains the words."""
        self.failed(what, code, call.future(request, timeout=CALL_SECONDS), *words)

    def failed(self, what: str, code: str, future: grpc.Future, *words: str) -> None:
        """The same of a call that is under way."""
        error = future.exception()
        if error is None:
            self.that(f"{what} is {code}", False, f"OK: {future.result()}")
            return
        seen = f"{error.code().name}: {error.details()}"
        says = f", naming {' and '.join(words)}" if words else ""
        told = all(word in error.details() for word in words)
        self.that(f"{what} is {code}{says}", error.code().name == code and told, seen)


class Watching:
    """A Watch stream, read on a thread of its own."""

    def __init__(self, stream):
        self._events = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream) -> None:
        try:
            for message in stream:
                self._events.put(message)
            self._events.put("OK")
        except grpc.RpcError as error:
            self._events.put(error.code().name)

    def next(self, is_wanted=lambda message: True, seconds: float = 10):
        """The next such message; None when the stream ends or time runs out."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(event, str):
                return None
            if is_wanted(event):
                return event

    def end(self, seconds: float) -> str:
        """The code that the stream ends with."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return f"no end in {seconds} s"
            if isinstance(event, str):
                return event


def until(is_met, seconds: float = CALL_SECONDS):
    """Asks until the answer is true, or time runs out; the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := is_met()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def wait_for_the_end(checks: Checks, watching: Watching) -> None:
    """Passes the barrier: `run` stops the daemon when all clients are here."""
    print("ready", flush=True)
    checks.equal("a Watch ends with UNAVAILABLE when the daemon stops",
                 watching.end(seconds=120), "UNAVAILABLE")


def run(client: str, main) -> None:
    """Runs a client; an exception is a check that failed."""
    checks = Checks(client)
    try:
        main(World.read(sys.argv[1]), checks)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        checks.that("the client comes to its end", False, repr(error))
        sys.exit(1)
