#!/usr/bin/env python3
"""An independent reader of ringback repositories, written from docs/formats alone.

    restore.py FOLDER NAME IMAGE    restore the backup NAME into the new file IMAGE
    restore.py FOLDER               read and check everything that the log leads to

FOLDER holds the repository's objects as files, each under its name. Needs the package blake3.
"""

import os
import re
import struct
import sys
from pathlib import Path

from blake3 import blake3

import messages
from messages import Refused, decode, demand, items


def check_of(header, name, body):
    return blake3(header + struct.pack("<Q", len(name)) + name.encode() + body).digest()


def positions_of(node, lists, limit):
    """Positions ascend below `limit`, and all lists are as long."""
    demand(all(len(it) == len(node.positions) for it in lists), "a node's lists differ in length")
    ascend = all(a < b for a, b in zip(node.positions, node.positions[1:]))
    demand(ascend and all(p < limit for p in node.positions), "a node's positions are wrong")
    return node.positions


class Repository:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.id = None
        self.packs = {}
        body = self.read_object("repository", 1, messages.REPOSITORY)
        demand(body.id == self.id, "repository: its ids differ")
        self.chunk_bytes = size = body.chunk_bytes
        demand(65536 <= size <= 4194304 and size & (size - 1) == 0, "its chunk size is none")

    def names(self, kind):
        return sorted(p.name for p in (self.folder / kind).glob("*"))

    def check_header(self, name, header, kind):
        demand(len(header) == 32, f"{name} is shorter than a header")
        magic, found, version, epoch, reserved, repository = struct.unpack("<8sBBHI16s", header)
        demand(magic == b"RINGBACK", f"{name} is no object of ringback")
        demand(version == 1, f"{name} has format version {version}")
        demand(epoch == 0, f"{name} has key epoch {epoch}")
        demand(found == kind, f"{name} is of kind {found}")
        demand(reserved == 0, f"{name}: reserved bytes are not zero")
        self.id = self.id or repository
        demand(repository == self.id, f"{name} belongs to another repository")

    def read_object(self, name, kind, message):
        path = self.folder / name
        demand(path.is_file(), f"{name} is missing")
        data = path.read_bytes()
        header, body, check = data[:32], data[32:-32], data[-32:]
        self.check_header(name, header, kind)
        demand(len(data) >= 64 and check == check_of(header, name, body), f"{name} is damaged")
        return decode(body, message)

    def commits(self):
        """Backups by name, in the order of the log."""
        demand(not self.names("checkpoint"), "there are checkpoints")
        slots = [n for n in self.names("log") if re.fullmatch("[0-9a-f]{16}", n) and int(n, 16)]
        commits, previous = {}, b""
        for slot, digits in enumerate(slots, 1):
            name = f"log/{digits}"
            demand(int(digits, 16) == slot, f"the log has no slot {slot}, but {name}")
            demand((self.folder / name).stat().st_size <= 4096, f"{name} is over 4 KiB")
            entry = self.read_object(name, 7, messages.LOG_ENTRY)
            demand(entry.previous == previous, f"{name} does not continue the entry before")
            demand(entry.commit is not None, f"{name} is of a kind that is not known")
            demand(len(entry.commit.roots) == 1, f"{name} has {len(entry.commit.roots)} roots")
            previous = blake3((self.folder / name).read_bytes()).digest()
            commits.setdefault(entry.commit.name, entry.commit)
        return commits

    def pack(self, folder, name):
        """The open file of a pack and its records: id, offset, length."""
        demand(len(name) == 24, "a pack's name has not 24 bytes")
        object_name = f"{folder}/{name[:8].hex()}/{name[8:12].hex()}-{name[12:].hex()}"
        if object_name in self.packs:
            return self.packs[object_name]
        path = self.folder / object_name
        demand(path.is_file(), f"{object_name} is missing")
        file, size = open(path, "rb"), path.stat().st_size
        header = file.read(32)
        self.check_header(object_name, header, {"data": 3, "tree": 4}[folder])
        demand(size >= 72, f"{object_name} is too short")
        file.seek(-8, os.SEEK_END)
        length, mark = struct.unpack("<I4s", file.read(8))
        demand(mark == b"RBPF" and length <= size - 72, f"{object_name} has a damaged trailer")
        file.seek(-40 - length, os.SEEK_END)
        body, check = file.read(length), file.read(32)
        demand(check == check_of(header, object_name, body), f"{object_name}: damaged footer")
        records, offset = [], 32
        footer = decode(body, messages.FOOTER)
        ids = items(footer.ids, 32, "a list of ids")
        demand(len(ids) == len(footer.stored_bytes), f"{object_name}: lists differ in length")
        for record_id, stored_bytes in zip(ids, footer.stored_bytes):
            records.append((record_id, offset, stored_bytes))
            offset += stored_bytes
        demand(offset + length + 40 == size, f"{object_name} has bytes that are no record")
        self.packs[object_name] = file, records
        return file, records

    def read_record(self, folder, pack, ordinal, record):
        """The bytes of a record, which the footer must list as `record`: id, offset, length."""
        file, records = self.pack(folder, pack)
        demand(ordinal < len(records) and records[ordinal] == record, "no such record in a pack")
        file.seek(record[1])
        return file.read(record[2])

    def read_node(self, ref, message):
        demand(1 <= ref.stored_bytes <= 2097152, "a node has an impossible length")
        place = (ref.id, ref.offset, ref.stored_bytes)
        data = self.read_record("tree", ref.pack, ref.ordinal, place)
        demand(blake3(data).digest() == ref.id, "a node does not match its id")
        return decode(data, message)

    def ref_set(self, set_id):
        """Names of the data packs and of the tree packs of a backup."""
        chain = []
        while set_id:
            demand(len(set_id) == 16 and len(chain) < 64, "a chain of ref sets is broken")
            chain.append(self.read_object(f"refs/{set_id.hex()}", 6, messages.REF_SET))
            set_id = chain[-1].parent
        data, tree = set(), set()
        for depth, it in enumerate(reversed(chain)):
            demand(it.depth == depth, "a ref set has the wrong depth")
            for names, dropped, added in ((data, it.dropped_data, it.added_data),
                                          (tree, it.dropped_tree, it.added_tree)):
                gone = set(items(dropped, 24, "a table of names"))
                demand(gone <= names, "a ref set drops a pack that is not there")
                names -= gone
                names |= set(items(added, 24, "a table of names"))
        return data, tree

    def check_segment(self, name):
        """Index segments repeat what the footers say."""
        name = f"index/{name[:8].hex()}/{name[8:12].hex()}-{name[12:].hex()}"
        for it in self.read_object(name, 5, messages.INDEX_SEGMENT).packs:
            listed = [(record[0], record[2]) for record in self.pack("data", it.name)[1]]
            stored = list(zip(items(it.ids, 32, "a list of ids"), it.stored_bytes, strict=True))
            demand(stored == listed, f"{name} does not say what a footer says")


class Restore:
    """One backup of one volume; `write` is given offsets and bytes."""

    def __init__(self, repository, commit, write):
        self.repository, self.write = repository, write
        self.data_packs, self.tree_packs = repository.ref_set(commit.ref_set)
        self.root = root = self.read_node(commit.roots[0], messages.ROOT)
        demand(root.volume_bytes < 2**63, "the volume has an impossible size")
        demand(root.chunk_bytes == repository.chunk_bytes, "the root has another chunk size")
        self.chunks = -(-root.volume_bytes // root.chunk_bytes)
        nodes, height = -(-self.chunks // 512), 0
        while nodes > 1:
            nodes, height = -(-nodes // 128), height + 1
        demand(root.height == height, "the root's height does not fit its size")

    def run(self):
        if self.root.top is not None:
            self.walk(self.root.top, self.root.height, 0)

    def read_node(self, ref, message):
        demand(ref.pack in self.tree_packs, "a node lies in a pack outside the ref set")
        return self.repository.read_node(ref, message)

    def walk(self, ref, height, index):
        if height == 0:
            return self.leaf(self.read_node(ref, messages.LEAF), index * 512)
        node = self.read_node(ref, messages.INNER)
        for position, child in zip(positions_of(node, [node.children], 128), node.children):
            self.walk(child, height - 1, index * 128 + position)

    def leaf(self, leaf, first):
        packs, ids = items(leaf.packs, 24, "a pack table"), items(leaf.ids, 32, "a list of ids")
        lists = [ids, leaf.pack, leaf.ordinals, leaf.offsets, leaf.stored_bytes]
        for position, *place in zip(positions_of(leaf, lists, 512), *lists):
            demand(first + position < self.chunks, "a chunk lies behind the volume's end")
            self.chunk((first + position) * self.root.chunk_bytes, packs, *place)

    def chunk(self, start, packs, chunk_id, pack, ordinal, offset, stored_bytes):
        demand(pack < len(packs), "a leaf names a pack outside its table")
        demand(packs[pack] in self.data_packs, "a chunk lies in a pack outside the ref set")
        length = min(self.root.chunk_bytes, self.root.volume_bytes - start)
        demand(stored_bytes == 1 + length, "a chunk has a record of the wrong length")
        place = (chunk_id, offset, stored_bytes)
        record = self.repository.read_record("data", packs[pack], ordinal, place)
        demand(record[0] == 0, f"a chunk has codec {record[0]}")
        demand(blake3(record[1:]).digest() == chunk_id, f"the chunk at byte {start} is damaged")
        self.write(start, record[1:])


def restore(folder, name, path):
    repository = Repository(folder)
    commits = repository.commits()
    demand(name in commits, f"there is no backup {name!r}")
    with open(path, "xb") as image:
        def write(start, data):
            image.seek(start)
            image.write(data)
        try:
            job = Restore(repository, commits[name], write)
            image.truncate(job.root.volume_bytes)
            job.run()
        except BaseException:
            os.unlink(path)
            raise


def check_all(folder):
    repository = Repository(folder)
    for name, commit in repository.commits().items():
        Restore(repository, commit, lambda start, data: None).run()
        for segment in items(commit.segments, 24, "a table of names"):
            repository.check_segment(segment)
        print(f"{name}: {commit.volume_bytes} bytes of volume {commit.volume_handle!r}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 4):
        sys.exit(__doc__)
    try:
        (check_all if len(sys.argv) == 2 else restore)(*sys.argv[1:])
    except (Refused, ValueError, OSError) as error:
        sys.exit(f"restore.py: {error}")
