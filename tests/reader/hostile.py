"""A repository whose objects are whole, and whose backups each break one rule of the pages."""

import lz4.block
import zstandard

import frame
import messages
from codec import LZ4, RAW, ZSTD
from messages import encode
from scenario import CHUNK_BYTES, CREATED_MS, byte, lines, random_of, shake
from writer import Writer

SHORT = lines("a short volume", 512)
FULL = byte(65, CHUNK_BYTES)
NOISE = shake("no shorter", 512)
MEBIBYTE = 1 << 20


def zstd(data, **how):
    return zstandard.ZstdCompressor(**how).compress(data)


def lz4_of(data):
    return lz4.block.compress(data, store_size=False)


def zstd_of_window(data, window_log):
    """A frame without its content's size, whose window is far larger than a chunk."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window_log, write_content_size=False)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


class Case:
    """A backup of one chunk of 512 bytes, or of several that are the same full one.

    `record` is codec and payload; `chunk` what the id is of; `leaf`, `inner`, `root` replace
    fields; `cut` takes bytes from the end of the root; `wrong` names references with a false id.
    """

    def __init__(self, because, chunk=SHORT, record=None, volume_bytes=None, leaf=None, inner=None,
                 root=None, cut=0, wrong=()):
        self.because, self.chunk = because, chunk
        self.record = record or (ZSTD, zstd(chunk))
        self.volume_bytes = len(chunk) if volume_bytes is None else volume_bytes
        self.leaf, self.inner, self.root = leaf or {}, inner, root or {}
        self.cut, self.wrong = cut, wrong


def full(because, **more):
    return Case(because, chunk=FULL, volume_bytes=3 * CHUNK_BYTES, **more)


def tall(because, inner):
    return Case(because, chunk=FULL, volume_bytes=513 * CHUNK_BYTES, inner=inner, root={"height": 1})


CASES = {
    "good raw": Case(None, record=(RAW, SHORT)),
    "good lz4": Case(None, record=(LZ4, lz4_of(SHORT))),
    "good zstd": Case(None),
    "good window": Case(None, record=(ZSTD, zstd_of_window(SHORT, 24))),
    "good tree": tall(None, {}),
    "raw too short": Case("a raw record has the chunk's length and 1",
                          chunk=SHORT[:-1], record=(RAW, SHORT[:-1]), volume_bytes=512),
    "raw too long": Case("a raw record has the chunk's length and 1",
                         chunk=SHORT + b"+", record=(RAW, SHORT + b"+"), volume_bytes=512),
    "no payload": Case("an empty payload is no chunk", record=(RAW, b"")),
    "lz4 too short": Case("the block gives less than the chunk",
                          chunk=SHORT[:-1], record=(LZ4, lz4_of(SHORT[:-1])), volume_bytes=512),
    "lz4 too long": Case("the block gives more than the chunk",
                         chunk=SHORT + b"+", record=(LZ4, lz4_of(SHORT + b"+")), volume_bytes=512),
    "lz4 cut off": Case("the block ends too early", record=(LZ4, lz4_of(SHORT)[:-1])),
    "lz4 far behind": Case("a match reaches behind the block's beginning",
                           record=(LZ4, b"\x1fA\xff\xff\xff\x00\x50BBBBB")),
    "zstd too short": Case("the frame gives less than the chunk",
                           chunk=SHORT[:-1], record=(ZSTD, zstd(SHORT[:-1])), volume_bytes=512),
    "zstd too long": Case("the frame gives more than the chunk",
                          chunk=SHORT + b"+", record=(ZSTD, zstd(SHORT + b"+")), volume_bytes=512),
    "zstd cut off": Case("the frame ends too early", record=(ZSTD, zstd(SHORT)[:-1])),
    "zstd two frames": Case("a record holds one frame",
                            record=(ZSTD, zstd(SHORT[:256]) + zstd(SHORT[256:]))),
    "zstd and more": Case("a record holds one frame and nothing behind it",
                          record=(ZSTD, zstd(SHORT) + b"\0")),
    "lz4 no shorter": Case("a compressed record is shorter than a raw one",
                           chunk=NOISE, record=(LZ4, lz4_of(NOISE))),
    "zstd no shorter": Case("a compressed record is shorter than a raw one",
                            chunk=NOISE, record=(ZSTD, zstd(NOISE))),
    "zstd swells": full("the frame gives 64 MiB: nobody makes room for them",
                        record=(ZSTD, zstd(bytes(64 * MEBIBYTE), write_content_size=False))),
    "zstd says so": full("the frame says that it gives 64 MiB",
                         record=(ZSTD, zstd(bytes(64 * MEBIBYTE)))),
    "codec 3": Case("the codec is not known", record=(3, SHORT)),
    "codec 255": Case("the codec is not known", record=(255, SHORT)),
    "another chunk": Case("the chunk's id differs", chunk=SHORT, record=(RAW, SHORT[::-1])),
    "position 512": full("a leaf has positions 0 to 511", leaf={"positions": [512]}),
    "positions twice": full("positions ascend", leaf={"positions": [1, 1], "twice": True}),
    "positions descend": full("positions ascend", leaf={"positions": [1, 0], "twice": True}),
    "positions missing": full("the lists of a leaf are of equal length", leaf={"positions": []}),
    "id cut": full("ids have 32 bytes", leaf={"ids": bytes(31)}),
    "outside the table": full("a leaf's packs are in its table", leaf={"pack": [1]}),
    "no such pack": full("the pack is not there", leaf={"packs": bytes(24)}),
    "behind the pack": full("the record lies behind its pack's end",
                            leaf={"offsets": [2**31]}),
    "behind the volume": full("a chunk lies within the volume", leaf={"positions": [3]}),
    "no record": full("a record has at least a byte", leaf={"stored_bytes": [0]}),
    "huge record": full("a record has at most 4,194,368 bytes", leaf={"stored_bytes": [4194369]}),
    "inner 128": tall("an inner node has positions 0 to 127", {"positions": [128]}),
    "inner lists": tall("the lists of an inner node are of equal length", {"positions": [0, 1]}),
    "leaf id": Case("the leaf's id differs", wrong=("top",)),
    "root id": Case("the root's id differs", wrong=("root",)),
    "root cut": Case("a message ends inside a field", cut=1),
    "height": Case("the height follows from the volume's size", root={"height": 1}),
    "chunk size": Case("the chunk size is the repository's",
                       root={"chunk_bytes": 2 * CHUNK_BYTES}),
    "endless": Case("a volume has under 2^63 bytes", root={"volume_bytes": 2**63, "height": 6}),
    "no text": Case("a text is UTF-8", root={"volume_handle": b"\xff"}),
}


class Hostile:
    """All chunks lie in one data pack, all nodes in one tree pack, in the order of the cases."""

    def __init__(self):
        self.random = random_of("hostile")
        self.writer = Writer(self.random, CHUNK_BYTES)
        self.session = self.random("session", 8)
        self.data = self.session + bytes(4) + self.random("data pack", 12)
        self.tree = self.session + bytes(4) + self.random("tree pack", 12)
        self.nodes, self.offset = [], frame.HEADER_BYTES

    def node(self, node, wrong):
        """Puts a node into the tree pack and returns a reference to it."""
        place = self.tree, len(self.nodes), self.offset, len(node)
        node_id = self.writer.crypt.id_of(node)
        self.nodes.append((node_id, node))
        self.offset += len(node)
        return self.writer.node_ref(node_id[::-1] if wrong else node_id, place)

    def records(self):
        """Ids, ordinals, offsets and lengths of the records, which are all stored apart."""
        records, places, offset = [], [], frame.HEADER_BYTES
        for case in CASES.values():
            record = self.writer.record(*case.record)
            chunk_id = self.writer.crypt.id_of(case.chunk)
            places.append((chunk_id, len(records), offset, len(record)))
            records.append((chunk_id, record))
            offset += len(record)
        self.writer.put_pack("data", self.data, records)
        return places

    def leaf(self, case, chunk_id, ordinal, offset, length):
        fields = dict(packs=self.data, positions=[0], ids=chunk_id, pack=[0], ordinals=[ordinal],
                      offsets=[offset], stored_bytes=[length]) | case.leaf
        if fields.pop("twice", False):
            fields |= {it: fields[it] * 2 for it in fields if it not in ("packs", "positions")}
        return encode(messages.LEAF, **fields)

    def root(self, name, case, place):
        top = self.node(self.leaf(case, *place), "top" in case.wrong)
        if case.inner is not None:
            fields = dict(positions=[0], children=[top], data_packs=self.data) | case.inner
            top = self.node(encode(messages.INNER, **fields), False)
        fields = dict(volume_bytes=case.volume_bytes, chunk_bytes=CHUNK_BYTES, sector_bytes=512,
                      created_ms=CREATED_MS, top=top, volume_handle=b"hostile",
                      volume_identity=name) | case.root
        node = encode(ROOT_OF_BYTES, **fields)
        return self.node(node[:len(node) - case.cut], "root" in case.wrong)

    def tell(self):
        """The objects of the repository, by name."""
        self.writer.begin(CREATED_MS)
        roots = [self.root(name, case, place)
                 for (name, case), place in zip(CASES.items(), self.records())]
        self.writer.put_pack("tree", self.tree, self.nodes)
        set_id = self.random("ref set", 16)
        self.writer.put(f"refs/{set_id.hex()}", frame.REFS,
                        encode(messages.REF_SET, added_data=self.data, added_tree=self.tree))
        for (name, case), root in zip(CASES.items(), roots):
            self.writer.append(commit=encode(
                messages.COMMIT, id=self.random(f"commit of {name}", 16), name=name,
                request_name=name, volume_handle="hostile", volume_identity=name, roots=[root],
                ref_set=set_id, session=self.session, volume_bytes=case.volume_bytes,
                chunk_bytes=CHUNK_BYTES, created_ms=CREATED_MS))
        return self.writer.objects


# The handle may be no text here.
ROOT_OF_BYTES = messages.ROOT | {9: ("volume_handle", bytes)}
