#!/usr/bin/env python3
"""damage.py [--passphrase-file FILE] FOLDER: no changed, missing or added byte goes unnoticed.

FOLDER is a small repository, and stays as it is. Each damage is noticed by reading everything; and
restoring either refuses, or gives the bytes that it gave before. One kind alone may go unnoticed: a
compressed chunk has several forms, and one that is not sealed may be changed into another. Inside long
runs of chunk data only some bytes are tried.
"""

import argparse
import hashlib
import sys

import log
import restore
from packs import Packs, object_name
from refused import Refused
from repository import Repository
from store import Folder, Memory


def damages(data):
    """Where and how an object is damaged, and its bytes then."""
    for at in [*range(0, min(len(data), 512)), *range(512, len(data) - 512, 4999),
               *range(max(512, len(data) - 512), len(data))]:
        yield at, f"damage at byte {at}", data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:]
    yield len(data), "that the last byte is gone", data[:-1]
    yield len(data), "that there is a byte more", data + b"\0"


def is_in_records(name, data, at):
    footer = int.from_bytes(data[-8:-4], "little") + 40
    return name.startswith("data/") and 32 <= at < len(data) - footer


class Bed:
    """A repository to be damaged, and what its backups hold while it is whole."""

    def __init__(self, objects, passphrase):
        self.objects, self.passphrase = objects, passphrase
        self.tried = self.harmless = 0
        assert not self.is_refused(objects), "the repository is refused before it is damaged"
        repository = self.open(objects)
        history = log.check(repository, Packs(repository))
        self.live = {object_name("index", segment) for segment in history.segments}
        self.whole = {name: self.restored(objects, name) for name in history.commits}

    def open(self, objects):
        return Repository(Memory(objects), self.passphrase)

    def is_refused(self, objects):
        try:
            restore.check(self.open(objects), say=lambda _: None)
        except Refused:
            return True
        return False

    def restored(self, objects, name):
        """A hash of a backup's chunks and their offsets; none if it is refused."""
        content = hashlib.sha256()

        def write(start, data):
            content.update(start.to_bytes(8) + data)
        try:
            restore.backup_of(self.open(objects), name).write_to(write)
        except Refused:
            return None
        return content.digest()

    def hold(self, what, objects, in_records=False):
        """The damage is noticed, and no restore gives wrong bytes."""
        if not self.is_refused(objects):
            if not in_records:
                sys.exit(f"{what} goes unnoticed")
            self.harmless += 1
        for name, content in self.whole.items():
            if self.restored(objects, name) not in (None, content):
                sys.exit(f"{what}: wrong bytes are restored from {name}")
        self.tried += 1

    def is_missed(self, name):
        """Nothing shows that the end of a log is gone, a checkpoint, or one of several key slots."""
        kind = name.partition("/")[0]
        others = [it for it in self.objects if it.startswith(f"{kind}/") and it != name]
        missed = {"log": any(it > name for it in others), "keys": not others, "checkpoint": False}
        return missed.get(kind, True)

    def hold_all(self, name):
        data = self.objects[name]
        for at, what, damaged in damages(data):
            in_records = is_in_records(name, data, at)
            self.hold(f"{name}: {what}", self.objects | {name: damaged}, in_records)
        if self.is_missed(name):
            without = {it: data for it, data in self.objects.items() if it != name}
            self.hold(f"{name}: that it is missing", without)


def main(folder, passphrase):
    bed = Bed(Folder(folder).read_all(), passphrase)
    for name in bed.objects:
        # Index segments that are not live any more are read by nobody.
        if not name.startswith("index/") or name in bed.live:
            bed.hold_all(name)
    assert not (bed.harmless and passphrase), "a sealed record was changed, and still opens"
    print(f"{bed.tried - bed.harmless} damages noticed, {bed.harmless} did no harm")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passphrase-file")
    parser.add_argument("folder")
    given = parser.parse_args()
    main(given.folder, restore.passphrase_in(given.passphrase_file))
