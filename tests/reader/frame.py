"""The frame around every object but packs: header, body, check (docs/formats/object.md)."""

import struct
from typing import NamedTuple

from blake3 import blake3

from refused import Unknown, demand

HEADER_BYTES, CHECK_BYTES = 32, 32
(REPOSITORY, KEYS, DATA_PACK, TREE_PACK, INDEX, REFS, LOG, CHECKPOINT) = range(1, 9)
FIELDS = struct.Struct("<8sBBHI16s")
MAGIC, VERSION = b"RINGBACK", 1


class Header(NamedTuple):
    kind: int
    epoch: int
    repository: bytes

    def to_bytes(self):
        return FIELDS.pack(MAGIC, self.kind, VERSION, self.epoch, 0, self.repository)


def read_header(data, kind, epochs):
    """The header that begins an object, which is to be of `kind` and of one of the `epochs`."""
    demand(len(data) >= HEADER_BYTES, "it is shorter than a header")
    magic, found, version, epoch, reserved, repository = FIELDS.unpack(data[:HEADER_BYTES])
    demand(magic == MAGIC, "it is no object of ringback", Unknown)
    demand(version == VERSION, f"it has format version {version}, this reader knows 1", Unknown)
    demand(epoch in (0, 1), f"it has key epoch {epoch}, this reader knows 0 and 1", Unknown)
    demand(epoch in epochs, ["it is not sealed, though the repository is encrypted",
                             "it is sealed, though the repository is not encrypted"][epoch])
    demand(found == kind, f"it is of kind {found}, not {kind}")
    demand(reserved == 0, "its reserved bytes are not zero")
    return Header(found, epoch, repository)


def check_of(header, name, body):
    return blake3(header + struct.pack("<Q", len(name)) + name.encode() + body).digest()


def frame(header, name, body):
    """The whole object."""
    return header + body + check_of(header, name, body)


def unframe(data, name, kind, epochs, repository=None):
    """Header and body of an object; of any repository if none is given."""
    demand(len(data) >= HEADER_BYTES + CHECK_BYTES, "it is shorter than 64 bytes")
    header = read_header(data, kind, epochs)
    demand(repository in (None, header.repository), "it belongs to another repository")
    body, check = data[HEADER_BYTES:-CHECK_BYTES], data[-CHECK_BYTES:]
    demand(check == check_of(data[:HEADER_BYTES], name, body), "it is damaged: its check differs")
    return header, body
