#!/usr/bin/env python3
"""Repositories and known answers in tests/vectors, made by writer.py from docs/formats alone.

    vectors.py pages           the writer makes the repository on the pages, byte for byte
    vectors.py write FOLDER    write all files into a new folder
    vectors.py check FOLDER    read them: every backup, and everything that is to be refused
"""

import json
import re
import sys
from pathlib import Path

from blake3 import blake3

import messages
import objects
import restore
from codec import expand
from crypt import Keys
from failures import failures_of
from failures_of_sums import failures_of_sums
from hostile import CASES, FULL, Hostile
from messages import encode
from primitives import known_answers
from refused import Refused, demand, within
from repository import Repository
from scenario import BACKUPS, BACKUPS_OF_DAYS, CHUNK_BYTES, PASSPHRASES, RECIPES, Story
from store import Folder, Memory
from writer import Volume, Writer

# What the pages have for random bytes: the first byte, the others count up.
RANDOM_OF_THE_PAGES = {
    "repository id": 0x10, "data pack of monday": 0xd0, "tree pack of monday": 0xe0,
    "index pack of monday": 0xf0, "ref set of monday": 0x20, "commit of monday": 0x30,
    "nonce of log/0000000000000001": 0x40, "tree pack of tuesday": 0xe0,
    "ref set of tuesday": 0x50, "commit of tuesday": 0x60, "nonce of log/0000000000000002": 0x70,
    "nonce of log/0000000000000003": 0x80, "nonce of log/0000000000000004": 0x90,
    "seal key": 0x80, "id key": 0xa0, "slot first": 0xb0, "salt of passphrases": 0xc0}
BEGUN_MS, MONDAY_MS, TUESDAY_MS = 1749999999000, 1750000000000, 1750086400000
IDENTITY = "2d7a1c9e-5b0f-4c38-9e61-0a4f7be3d512"


def random_of_the_pages(what, length):
    first = RANDOM_OF_THE_PAGES.get(what, 0)
    return bytes(range(first, first + length))


def session_of_the_pages(number):
    return bytes.fromhex(f"5e5510000000000{number}")


def of_monday(writer, folder):
    return writer.pack_name(session_of_the_pages(1), folder, "monday")


def clear_pages():
    writer = Writer(random_of_the_pages, CHUNK_BYTES)
    writer.begin(BEGUN_MS)
    volume = Volume("data", IDENTITY, 131584, {0: b"A" * CHUNK_BYTES, 2: b"B" * 512})
    monday = writer.back_up("monday", volume, MONDAY_MS, session=session_of_the_pages(1),
                            sent=len(writer.objects["repository"]), count_packed=False)
    writer.back_up("tuesday", volume, TUESDAY_MS, monday, session=session_of_the_pages(2),
                   count_packed=False)
    packs, segments = (of_monday(writer, folder) for folder in ("data", "index"))
    repaired = session_of_the_pages(3) + segments[8:]
    writer.put_segment(repaired, [packs])
    writer.append(segments=encode(messages.SEGMENTS, added=repaired, dropped=segments))
    writer.append(damage=encode(messages.DAMAGE, packs=packs))
    summed = session_of_the_pages(4) + bytes(4) + random_of_the_pages("tree pack of tuesday", 12)
    writer.put_checkpoint(summed, commits_in_block=2)
    return writer.objects


def sealed_pages():
    keys = Keys(random_of_the_pages("seal key", 32), random_of_the_pages("id key", 32))
    stretching = {"memory_kib": 65536, "iterations": 3, "lanes": 4}
    writer = Writer(random_of_the_pages, CHUNK_BYTES, keys)
    writer.begin(BEGUN_MS, stretching)
    writer.put_slot("first", PASSPHRASES["everyday"], BEGUN_MS, stretching)
    volume = Volume("data", IDENTITY, 512, {0: b"B" * 512})
    # The page gives a round number for what was sent: 833 bytes of pack and segment, and these.
    writer.back_up("monday", volume, MONDAY_MS, session=session_of_the_pages(1), sent=1000 - 833,
                   count_packed=False)
    return writer.objects


def pages():
    """The writer makes the repositories on the pages."""
    dumped = objects.dumped()
    written = clear_pages() | {f"sealed/{name}": it for name, it in sealed_pages().items()}
    demand(dumped.keys() == written.keys(), "the writer makes other objects than the pages have")
    for name, data in dumped.items():
        demand(data == written[name], f"the writer makes another {name} than the pages have")
    for name, record in objects.dumped_records().items():
        chunk = expand(record[0], record[1:], CHUNK_BYTES)
        demand(chunk == b"A" * CHUNK_BYTES, f"the record {name} is not what the page says")
    print(f"{len(dumped)} objects as on the pages")


def json_of(content):
    """Indented, with the innermost lists and objects each on one line."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    innermost = re.compile(r"[\[{][^\[\]{}]*[\]}]")
    return innermost.sub(lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


class Content:
    """Hash of a volume's bytes, without holding them all."""

    def __init__(self, volume_bytes):
        self.left, self.hash, self.at = volume_bytes, blake3(), 0

    def write(self, start, data):
        self.skip(start)
        self.hash.update(data)
        self.at += len(data)

    def skip(self, end):
        while self.at < end:
            length = min(end - self.at, 1 << 20)
            self.hash.update(bytes(length))
            self.at += length

    def digest(self):
        self.skip(self.left)
        return self.hash.hexdigest()


def expected_of(volume_bytes, pieces):
    content = Content(volume_bytes)
    for it in pieces:
        content.write(it["at"], RECIPES[it["recipe"]](it["source"], it["bytes"]))
    return {"volume_bytes": volume_bytes, "blake3": content.digest(), "pieces": pieces}


def expected_of_hostile(case):
    pieces = [{"at": 0, "bytes": len(case.chunk), "recipe": "lines", "source": "a short volume"}]
    if case.chunk == FULL:
        pieces = [{"at": 0, "bytes": len(FULL), "recipe": "byte", "source": 65}]
    return expected_of(case.volume_bytes, pieces)


def write(folder):
    stories = {name: Story(name) for name in ("plain", "encrypted")}
    sums = {name: Story(name) for name in ("summed", "summed-encrypted")}
    repositories = {name: story.tell() for name, story in stories.items()}
    repositories |= {name: story.sum_up() for name, story in sums.items()}
    repositories["hostile"] = Hostile().tell()
    for repository, found in repositories.items():
        for name, data in found.items():
            objects.store(Path(folder, repository), name, data)
    backups, days = (
        {name: expected_of(volume_bytes, pieces) for name, (_, volume_bytes, pieces, _) in it.items()}
        for it in (BACKUPS, BACKUPS_OF_DAYS))
    good = {name: expected_of_hostile(it) for name, it in CASES.items() if it.because is None}
    failures = [it for name, story in stories.items() for it in failures_of(name, story)]
    failures += [it for name, story in sums.items() for it in failures_of_sums(name, story)]
    failures += [{"what": it.because, "outcome": "refused", "repository": "hostile",
                  "passphrase": None, "backup": name} for name, it in CASES.items() if it.because]
    held = {"plain": backups, "encrypted": backups, "summed": days, "summed-encrypted": days,
            "hostile": good}
    expected = {
        "repositories": {
            name: {"chunk_bytes": CHUNK_BYTES, "backups": it,
                   "passphrases": list(PASSPHRASES.values()) if "encrypted" in name else []}
            for name, it in held.items()},
        "changes": failures}
    for name, content in (("expected", expected), ("primitives", known_answers())):
        Path(folder, f"{name}.json").write_text(json_of(content))


def changed(objects_of, change):
    """The objects of the repository of a change, and what it does to them."""
    whole = objects_of[change["repository"]]
    found = dict(whole)
    for name, source in change.get("copy", {}).items():
        found[name] = whole[source]
    for name, data in change.get("put", {}).items():
        found[name] = bytes.fromhex(data)
    for name, at, mask in change.get("flip", []):
        data = found[name]
        found[name] = data[:at] + bytes([data[at] ^ mask]) + data[at + 1:]
    for name in change.get("remove", []):
        del found[name]
    return found


def hash_of(found, passphrase, backup):
    """The hash of a backup's volume, or the sentence with which it is refused."""
    try:
        encoded = None if passphrase is None else passphrase.encode()
        with within(backup):
            volume = restore.backup_of(Repository(Memory(found), encoded), backup)
            content = Content(volume.root.volume_bytes)
            volume.write_to(content.write)
    except Refused as refused:
        return None, str(refused)
    return content.digest(), None


def check(folder):
    expected = json.loads(Path(folder, "expected.json").read_text())
    repositories, restored = expected["repositories"], 0
    whole = {name: Folder(Path(folder, name)).read_all() for name in repositories}
    for repository, it in repositories.items():
        for passphrase in it["passphrases"] or [None]:
            for backup, volume in it["backups"].items():
                content, refusal = hash_of(whole[repository], passphrase, backup)
                demand(content == volume["blake3"], f"{repository}, {backup}: {refusal or 'wrong'}")
                restored += 1
    for change in expected["changes"]:
        content, refusal = hash_of(changed(whole, change), change["passphrase"], change["backup"])
        backups = repositories[change["repository"]]["backups"]
        right = content is not None and content == backups[change["backup"]]["blake3"]
        holds = {"refused": refusal is not None, "restored": right, "either": refusal or right}
        demand(holds[change["outcome"]], f"not {change['outcome']}: {change}: {refusal}")
    print(f"{restored} backups restored, {len(expected['changes'])} changes held")


if __name__ == "__main__":
    commands = {"pages": pages, "write": write, "check": check}
    try:
        commands[sys.argv[1]](*sys.argv[2:])
    except Refused as refused:
        sys.exit(f"vectors.py: {refused}")
