"""The repositories of tests/vectors: one story, told once in the clear and once encrypted.

All that is random in a real repository is here taken from SHAKE-256 of what it is for.
"""

import hashlib

import lz4.block
import zstandard

import messages
from codec import LZ4, RAW, ZSTD
from crypt import Keys
from messages import encode
from writer import Volume, Writer

CHUNK_BYTES = 65536
CREATED_MS = 1_750_000_000_000
DAY_MS = 86_400_000
STRETCHING = {"memory_kib": 8192, "iterations": 2, "lanes": 2}
PASSPHRASES = {"everyday": "correct horse battery staple", "the safe": "Ключ под ковриком, 鍵はマットの下"}


def random_of(repository):
    """Bytes by what they are for, other ones in each repository."""
    return lambda what, length: shake(f"ringback {repository}: {what}", length)


def shake(label, length):
    return hashlib.shake_256(label.encode()).digest(length)


def lines(text, length):
    """Numbered lines, cut at `length`."""
    whole = "".join(f"{n:06} {text}\n" for n in range(length // (len(text) + 8) + 1))
    return whole.encode()[:length]


def byte(value, length):
    return bytes([value]) * length


RECIPES = {"lines": lines, "shake256": shake, "byte": byte}


def piece(chunk, recipe, source, length=CHUNK_BYTES):
    return {"at": chunk * CHUNK_BYTES, "bytes": length, "recipe": recipe, "source": source}


def zstd(data):
    return ZSTD, zstandard.ZstdCompressor(level=3).compress(data)


def zstd_otherwise(data):
    """With a checksum, and without the content's size: so it has a window."""
    with_checksum = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=False)
    return ZSTD, with_checksum.compress(data)


def lz4_block(data):
    return LZ4, lz4.block.compress(data, store_size=False)


def raw(data):
    return RAW, data


def volume_of(handle, volume_bytes, pieces, codecs):
    """`codecs` make the records of chunks by their numbers; the others are stored raw."""
    chunks = {it["at"] // CHUNK_BYTES: RECIPES[it["recipe"]](it["source"], it["bytes"])
              for it in pieces}
    records = {number: codec(chunks[number]) for number, codec in codecs.items()}
    identity = f"{shake(handle, 16).hex()}"
    return Volume(handle, identity, volume_bytes, chunks, records)


TAIL_BYTES = 4608
DATA_BYTES = 7 * CHUNK_BYTES + TAIL_BYTES
A, B, C, D = ((it, "lines", f"what {name} keeps on the shelf")
              for it, name in ((0, "Ada"), (2, "Björn"), (2, "Chloé"), (3, "Dmitri")))
MONDAY = [piece(*A), piece(*B), piece(*D), piece(4, *A[1:]), piece(5, "byte", 0),
          piece(6, "byte", 65), piece(7, "lines", "the end", TAIL_BYTES)]
TUESDAY = [piece(*A), piece(1, *D[1:]), piece(*C), piece(*D), piece(4, *A[1:]),
           piece(5, "shake256", "a chunk of noise"), piece(6, "byte", 0),
           piece(7, "shake256", "a tail of noise", TAIL_BYTES)]
WIDE_BYTES = 1025 * CHUNK_BYTES + 512
WIDE = [piece(0, "lines", "the first"), piece(513, "lines", "in the second leaf"),
        piece(1024, "lines", "the first"), piece(1025, "byte", 66, 512)]
ZERO_BYTES = 4 * CHUNK_BYTES + 512
MONDAYS = {0: zstd, 2: lz4_block, 3: lz4_block, 4: zstd, 6: zstd_otherwise, 7: raw}
TUESDAYS = MONDAYS | {1: lz4_block, 2: zstd_otherwise, 5: raw, 6: raw}

# Backups by name: handle of the volume, its bytes, its pieces, the codecs of its chunks.
BACKUPS = {
    "monday": ("data", DATA_BYTES, MONDAY, MONDAYS),
    "tuesday": ("data", DATA_BYTES, TUESDAY, TUESDAYS),
    "wednesday": ("data", DATA_BYTES, TUESDAY, TUESDAYS),
    "thursday": ("data", DATA_BYTES, TUESDAY, TUESDAYS),
    "empty": ("nothing", 0, [], {}),
    "zéro": ("zeros", ZERO_BYTES, [piece(1, "byte", 0)], {}),
    "wide": ("wide", WIDE_BYTES, WIDE, {0: zstd, 513: zstd, 1024: zstd}),
}


# Backups of small volumes of their own, which `sum_up` makes; not in the order of their names.
DAYS = ["uno", "due", "tre", "quattro", "cinque", "sei"]
BACKUPS_OF_DAYS = {name: (name, 512, [piece(0, "lines", name, 512)], {0: zstd}) for name in DAYS}


class Story:
    """Writes one repository, with keys if `encrypted` is in its name."""

    def __init__(self, repository):
        self.random = random_of(repository)
        keys = None
        if "encrypted" in repository:
            keys = Keys(self.random("seal key", 32), self.random("id key", 32))
        self.writer = Writer(self.random, CHUNK_BYTES, keys)
        self.backups = {}
        self.clock = CREATED_MS

    def begin(self):
        """`repository`, a key slot for each passphrase, and one that a writer left who came second."""
        if not self.writer.keys:
            return self.writer.begin(CREATED_MS)
        self.writer.begin(CREATED_MS, STRETCHING)
        for label, passphrase in PASSPHRASES.items():
            self.writer.put_slot(label, passphrase, CREATED_MS, STRETCHING)
        late = Keys(self.random("late seal key", 32), self.random("late id key", 32))
        second = Writer(lambda what, length: self.random(f"late {what}", length), CHUNK_BYTES, late)
        second.put_slot("came second", PASSPHRASES["everyday"], CREATED_MS, STRETCHING)
        self.writer.objects |= second.objects

    def back_up(self, name, parent=None, avoid=()):
        self.clock += DAY_MS
        self.backups[name] = self.writer.back_up(
            name, volume_of(*(BACKUPS | BACKUPS_OF_DAYS)[name]), self.clock,
            self.backups.get(parent), avoid=avoid)

    def pack_of(self, folder, backup):
        """The name of the pack or segment that a backup wrote."""
        end = self.random(f"{folder} pack of {backup}", 12)
        names = [it for it in self.writer.objects if it.startswith(folder)]
        return next(bytes.fromhex(it[len(folder):].replace("/", "").replace("-", ""))
                    for it in names if it.endswith(end.hex()))

    def merge_segments(self, *backups):
        merged = self.random("merging session", 8) + bytes(4) + self.random("merged segment", 12)
        self.writer.put_segment(merged, [self.pack_of("data", it) for it in backups])
        dropped = [self.pack_of("index", it) for it in backups]
        self.writer.append(segments=encode(messages.SEGMENTS, added=merged,
                                           dropped=b"".join(dropped)))

    def checkpoint(self, commits_in_block):
        what = f"checkpoint {self.writer.slot}"
        pack = self.random(f"session of {what}", 8) + bytes(4) + self.random(f"pack of {what}", 12)
        self.writer.put_checkpoint(pack, commits_in_block)

    def sum_up(self):
        """A repository with two checkpoints, and without the entries below the lower one."""
        self.begin()
        for name in DAYS[:3]:
            self.back_up(name)
        self.merge_segments(*DAYS[:3])
        self.checkpoint(commits_in_block=2)
        self.writer.append(damage=encode(messages.DAMAGE, packs=self.pack_of("data", DAYS[0])))
        self.back_up(DAYS[3])
        self.checkpoint(commits_in_block=3)
        self.back_up(DAYS[4])
        self.back_up(DAYS[5])
        for slot in range(1, 5):
            del self.writer.objects[f"log/{slot:016x}"]
        return self.writer.objects

    def tell(self):
        """The objects of the repository, by name."""
        self.begin()
        self.back_up("monday")
        self.back_up("tuesday", "monday")
        self.back_up("wednesday", "tuesday")
        self.merge_segments("monday", "tuesday")
        marked = self.pack_of("data", "monday")
        self.writer.append(damage=encode(messages.DAMAGE, packs=marked))
        self.back_up("thursday", "wednesday", avoid=[marked])
        self.back_up("empty")
        self.back_up("zéro")
        self.back_up("wide")
        return self.writer.objects
