"""What `run` and `run_lvm` need around clients: Python's packages, daemons, the count of checks."""

import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import threading
import time
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
REQUIREMENTS = HERE / "requirements.txt"
PROTOS = ROOT / "tests" / "protos"
DIALECTS = ("seed", "topolvm")


class Tally:
    """Counts the lines of checks, whoever prints them."""

    def __init__(self):
        self.passed = self.failed = 0
        self._lock = threading.Lock()

    def line(self, line: str) -> None:
        with self._lock:
            self.passed += line.startswith("ok ")
            self.failed += line.startswith("FAIL ")
            print(line, flush=True)

    def that(self, what: str, holds: object, seen: object = "") -> None:
        self.line(f"ok  run: {what}" if holds else f"FAIL run: {what}; seen: {seen}")


class Client:
    """A client at work, its lines read as they come."""

    def __init__(self, name: str, python: pathlib.Path | str, work: pathlib.Path,
                 tally: Tally):
        self.name, self.tally = name, tally
        self.at_barrier = threading.Event()
        self.is_ready = False
        path = [str(work / "generated"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [python, HERE / f"{name}.py", work / "world.json"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path),
                 "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            if line == "ready\n":
                self.is_ready = True
                self.at_barrier.set()
            else:
                self.tally.line(line.rstrip("\n"))
        self.at_barrier.set()

    def end(self, deadline: float) -> None:
        """Waits for its end, and checks that it was a good one."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join()
        code = self._process.wait()
        self.tally.that(f"the client {self.name} was through and ended well",
                        self.is_ready and code == 0, f"ready: {self.is_ready}, exit code {code}")


def environment() -> pathlib.Path:
    """A Python with the packages of requirements.txt, made where it is not there yet."""
    folder = TARGET / "python-clients"
    stamp = folder / "requirements.txt"
    wanted = REQUIREMENTS.read_text() + f"# Python {platform.python_version()}\n"
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python


def packages_for(version: str) -> pathlib.Path:
    """A folder of the same packages for another Python of this kind of machine, such as "3.11"."""
    folder = TARGET / f"python-{version}-packages"
    stamp = folder / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([environment(), "-m", "pip", "install", "--quiet",
                        "--disable-pip-version-check", "--target", folder, "--only-binary=:all:",
                        "--python-version", version, "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return folder


def generate(python: pathlib.Path | str, into: pathlib.Path) -> None:
    into.mkdir()
    for dialect in DIALECTS:
        subprocess.run([python, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={into}",
                        f"--grpc_python_out={into}", f"{dialect}.proto"], check=True)


def start(binary: str, log: pathlib.Path, *arguments: object, **options) -> subprocess.Popen:
    with open(log, "wb") as stderr:
        return subprocess.Popen([binary, "serve", *map(str, arguments)], stderr=stderr,
                                env={**os.environ, "CACHE_DIRECTORY": f"{log}.cache",
                                     "RINGBACK_METRICS_BIND_ADDRESS": "0"},
                                stdin=subprocess.DEVNULL, text=True, **options)


def read_endpoint(playground: subprocess.Popen) -> dict[str, str]:
    """What `serve --dev` prints: endpoint and keys."""
    names = {"AWS_ENDPOINT_URL_S3": "endpoint", "AWS_ACCESS_KEY_ID": "access_key_id",
             "AWS_SECRET_ACCESS_KEY": "secret_access_key"}
    found = {}
    for line in playground.stdout:
        if (export := re.match(r"\s*export (\w+)=(\S+)$", line)) and export[1] in names:
            found[names[export[1]]] = export[2]
        if len(found) == len(names):
            return found
    raise RuntimeError("`serve --dev` ended without printing endpoint and keys")


def wait_for(path: pathlib.Path, process: subprocess.Popen, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the daemon does not serve on {path}")
        time.sleep(0.05)


def stop(process: subprocess.Popen, seconds: float = 20) -> int | None:
    """Tells a daemon to stop; its exit code."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
