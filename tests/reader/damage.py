#!/usr/bin/env python3
"""damage.py FOLDER: no changed, missing or added byte of a repository goes unnoticed.

FOLDER is a small repository. Inside long runs of chunk data only some bytes are tried.
"""

import contextlib
import io
import sys
from pathlib import Path

import restore
from messages import Refused


def is_refused(folder):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            restore.check_all(folder)
    except (Refused, ValueError, OSError):
        return True
    return False


def damages(data):
    """The offset of a change, and the bytes with it."""
    for at in [*range(0, min(len(data), 512)), *range(512, len(data) - 512, 4999),
               *range(max(512, len(data) - 512), len(data))]:
        yield at, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:]
    yield len(data) - 1, data[:-1]
    yield len(data), data + b"\0"


def main(folder):
    assert not is_refused(folder), "the repository is refused before it is damaged"
    tried = 0
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        data = path.read_bytes()
        for at, damaged in damages(data):
            path.write_bytes(damaged)
            if not is_refused(folder):
                sys.exit(f"{path}: damage at byte {at} goes unnoticed")
            tried += 1
        path.unlink()
        # A log cannot show that its end is gone; everything else must be there.
        newest = max(Path(folder, "log").glob("*"), default=path)
        if path.parent.name != "log" or newest > path:
            if not is_refused(folder):
                sys.exit(f"{path}: that it is missing goes unnoticed")
            tried += 1
        path.write_bytes(data)
    print(f"{tried} damages noticed")


main(sys.argv[1])
