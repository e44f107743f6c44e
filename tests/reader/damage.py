#!/usr/bin/env python3
"""damage.py [--passphrase-file FILE] FOLDER: no changed, missing or added byte goes unnoticed.

FOLDER is a small repository. Each damage is noticed by reading everything; and restoring either
refuses, or gives the bytes that it gave before. Inside long runs of chunk data only some bytes are
tried.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import restore
from refused import Refused, within


def is_refused(folder, passphrase):
    try:
        restore.check(restore.open_repository(folder, passphrase), say=lambda _: None)
    except Refused:
        return True
    return False


def restored(folder, passphrase, name):
    """A hash of a backup's chunks and their offsets; none if it is refused."""
    content = hashlib.sha256()

    def write(start, data):
        content.update(start.to_bytes(8) + data)
    try:
        with within(name):
            restore.backup_of(restore.open_repository(folder, passphrase), name).write_to(write)
    except Refused:
        return None
    return content.digest()


def damages(data):
    """The offset of a change, and the bytes with it."""
    for at in [*range(0, min(len(data), 512)), *range(512, len(data) - 512, 4999),
               *range(max(512, len(data) - 512), len(data))]:
        yield at, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:]
    yield len(data) - 1, data[:-1]
    yield len(data), data + b"\0"


class Bed:
    """A repository to be damaged, and what its backups hold while it is whole."""

    def __init__(self, folder, passphrase):
        self.opening = folder, passphrase
        self.tried = 0
        assert not is_refused(*self.opening), "the repository is refused before it is damaged"
        names = restore.backups_of(restore.open_repository(*self.opening))
        self.whole = {name: restored(*self.opening, name) for name in names}

    def hold(self, what):
        """The damage `what` is there now; it is noticed, and no restore gives wrong bytes."""
        if not is_refused(*self.opening):
            sys.exit(f"{what} goes unnoticed")
        for name, content in self.whole.items():
            if restored(*self.opening, name) not in (None, content):
                sys.exit(f"{what}: wrong bytes are restored from {name}")
        self.tried += 1


def main(folder, passphrase):
    bed = Bed(folder, passphrase)
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        data = path.read_bytes()
        for at, damaged in damages(data):
            path.write_bytes(damaged)
            bed.hold(f"{path}: damage at byte {at}")
        path.unlink()
        # Nothing shows that the end of a log is gone, or one of several key slots.
        kind, others = path.parent.name, list(path.parent.iterdir())
        shows = {"log": any(it > path for it in others), "keys": not others}
        if shows.get(kind, True):
            bed.hold(f"{path}: that it is missing")
        path.write_bytes(data)
    print(f"{bed.tried} damages noticed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passphrase-file")
    parser.add_argument("folder")
    given = parser.parse_args()
    main(given.folder, restore.passphrase_in(given.passphrase_file))
