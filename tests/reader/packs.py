"""Packs: their names, their records, and their footers (docs/formats/pack.md)."""

import frame
import messages
from codec import expand
from messages import decode, items
from refused import demand, within

KINDS = {"data": frame.DATA_PACK, "tree": frame.TREE_PACK}
MARK = b"RBPF"
TRAILER_BYTES = frame.CHECK_BYTES + 8
MAX_NODE_BYTES, MAX_CHUNK_RECORD_BYTES = 2097152, 4194368


def object_name(folder, pack):
    """The object's name, from the 24 bytes that stand for it in messages."""
    demand(len(pack) == 24, f"the name of a pack has {len(pack)} bytes, not 24")
    return f"{folder}/{pack[:8].hex()}/{pack[8:12].hex()}-{pack[12:].hex()}"


def name_of(ref):
    return f"node {ref.ordinal} of {object_name('tree', ref.pack)}"


class Packs:
    def __init__(self, repository):
        self.repository = repository
        self.crypt, self.store = repository.crypt, repository.store
        self.footers = {}

    def record(self, name, offset, length):
        demand(offset >= frame.HEADER_BYTES and offset + length < 2**32, "it lies at no possible place")
        record = self.store.read_range(name, offset, length)
        demand(len(record) == length, "it lies behind the pack's end")
        return record

    def node(self, ref, message):
        data = self.node_bytes(ref)
        with within(name_of(ref)):
            return decode(data, message)

    def node_bytes(self, ref):
        name = object_name("tree", ref.pack)
        with within(name_of(ref)):
            length = ref.stored_bytes
            demand(self.crypt.tag_bytes < length <= MAX_NODE_BYTES, f"it has {length} bytes")
            record = self.record(name, ref.offset, length)
            node = self.crypt.node(name, ref.ordinal, ref.id, record)
            demand(self.crypt.id_of(node) == ref.id, "it is damaged: its id differs")
            return node

    def chunk(self, chunk_id, pack, ordinal, offset, length, chunk_bytes):
        """A chunk that is to have `chunk_bytes` bytes."""
        name = object_name("data", pack)
        with within(f"chunk {ordinal} of {name}"):
            demand(self.crypt.tag_bytes < length <= MAX_CHUNK_RECORD_BYTES, f"it has {length} bytes")
            record = self.record(name, offset, length)
            codec, payload = self.crypt.chunk(name, ordinal, chunk_id, record)
            chunk = expand(codec, payload, chunk_bytes)
            demand(self.crypt.id_of(chunk) == chunk_id, "it is damaged: its id differs")
            return chunk

    def demand_listed(self, folder, pack, ordinal, place):
        """The pack's footer lists the record: id, offset, length."""
        records = self.footer(folder, pack)
        demand(ordinal < len(records) and records[ordinal] == place,
               f"{object_name(folder, pack)} does not list its record {ordinal} as the tree does")

    def footer(self, folder, pack):
        """A pack's records as its footer lists them: id, offset, length. Read once."""
        name = object_name(folder, pack)
        if name not in self.footers:
            with within(name):
                self.footers[name] = self.read_footer(folder, name)
        return self.footers[name]

    def read_footer(self, folder, name):
        size = self.store.size(name)
        header = self.store.read_range(name, 0, frame.HEADER_BYTES)
        repository = frame.read_header(header, KINDS[folder], (self.crypt.epoch,)).repository
        demand(repository == self.repository.header.repository, "it belongs to another repository")
        demand(size >= frame.HEADER_BYTES + TRAILER_BYTES, "it is too short")
        trailer = self.store.read_range(name, size - 8, 8)
        length = int.from_bytes(trailer[:4], "little")
        demand(trailer[4:] == MARK, "its end mark is missing")
        demand(length <= size - frame.HEADER_BYTES - TRAILER_BYTES, "its footer is longer than it")
        end = self.store.read_range(name, size - TRAILER_BYTES - length, length + frame.CHECK_BYTES)
        body, check = end[:length], end[length:]
        demand(check == frame.check_of(header, name, body), "its footer is damaged: its check differs")
        footer = decode(self.crypt.footer(name, header, body), messages.FOOTER)
        ids = items(footer.ids, 32, "a list of ids")
        demand(ids, "it has no records")
        demand(len(ids) == len(footer.stored_bytes), "its footer's lists differ in length")
        records, offset = [], frame.HEADER_BYTES
        for record_id, stored_bytes in zip(ids, footer.stored_bytes):
            records.append((record_id, offset, stored_bytes))
            offset += stored_bytes
        demand(offset + length + TRAILER_BYTES == size, "its records do not fill it")
        return records
