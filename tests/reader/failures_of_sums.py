"""What is done to the repositories with checkpoints: those of the slots 4 and 6, and entries 5 to 8."""

from blake3 import blake3

import frame
import messages
from failures import UNKNOWN_FIELD, Failures
from messages import decode, encode

LOW, HIGH = (f"checkpoint/{slot:016x}" for slot in (4, 6))
ENTRIES = {slot: f"log/{slot:016x}" for slot in (5, 6, 7, 8)}


def failures_of_sums(repository, story):
    found = Sums(repository, story)
    found.of_checkpoints()
    found.of_blocks()
    found.of_entries()
    found.of_other_sums()
    return found.list


def node_ref(given):
    return encode(messages.NODE_REF, **vars(given))


class Sums(Failures):
    def add(self, outcome, what, backup="uno", **more):
        super().add(outcome, what, backup, **more)

    def message(self, name):
        data = self.objects[name]
        body = self.writer.crypt.body(name, data[:frame.HEADER_BYTES], data[32:-32])
        return decode(body, messages.CHECKPOINT)

    def blocks_of(self, name):
        """The pack with a checkpoint's blocks."""
        pack = self.story.random(f"pack of checkpoint {int(name[-16:], 16)}", 12).hex()
        return next(it for it in self.objects if it.startswith("tree/") and it.endswith(pack))

    def of_checkpoints(self):
        low, high = self.objects[LOW], self.objects[HIGH]
        self.restore("the highest checkpoint is missing", remove=[HIGH])
        self.restore("the lower checkpoint is missing", remove=[LOW])
        self.refuse("nothing stands for the entries that are missing", remove=[LOW, HIGH])
        for at, mask, what in ((0, 1, "something else lies in the place of the highest checkpoint"),
                               (9, 3, "the highest checkpoint has format version 2"),
                               (10, 2, "the highest checkpoint has another key epoch")):
            self.flip(what, HIGH, at, mask)
        for at in (8, 12, 20, 40, len(high) - 1):
            self.restore("the highest checkpoint is damaged", flip=[[HIGH, at, 1]])
            self.refuse("both checkpoints are damaged",
                        flip=[[HIGH, at, 1], [LOW, min(at, len(low) - 1), 1]])
        self.restore("the highest checkpoint is cut off", put={HIGH: high[:50].hex()})
        self.restore("the highest checkpoint is the lower one", copy={HIGH: LOW})
        self.restore("there are names below checkpoint/ that are no slots",
                     put={"checkpoint/0000000000000000": "00", "checkpoint/README": "00"})

    def of_blocks(self):
        low, high = self.blocks_of(LOW), self.blocks_of(HIGH)
        self.restore("the blocks of the highest checkpoint are missing", remove=[high])
        self.restore("a block of the highest checkpoint is damaged", flip=[[high, 40, 1]])
        self.refuse("the blocks of both checkpoints are missing", remove=[low, high])

    def of_entries(self):
        self.restore("a checkpoint stands for the entry", remove=[ENTRIES[5]])
        self.restore("a checkpoint stands for the entry", flip=[[ENTRIES[6], 40, 1]])
        self.refuse("an entry behind the checkpoint is missing", remove=[ENTRIES[7]])
        self.refuse("an entry behind the checkpoint is damaged", flip=[[ENTRIES[7], 40, 1]])
        self.refuse("the checkpoint is damaged, and an entry that it stood for is missing",
                    flip=[[HIGH, 40, 1]], remove=[ENTRIES[5]])
        self.refuse("the log ends before a damaged checkpoint", flip=[[HIGH, 40, 1]],
                    remove=[ENTRIES[slot] for slot in (6, 7, 8)])
        self.refuse("the backup came after the checkpoint, and its entry is missing",
                    backup="sei", remove=[ENTRIES[8]])

    def high_with(self, behind=b"", **fields):
        """The highest checkpoint with other fields, and whole."""
        it = self.message(HIGH)
        commits = [encode(messages.COMMIT_BLOCK, first_name=block.first_name,
                          record=node_ref(block.record)) for block in it.commits]
        same = vars(it) | {"commits": commits, "segments": [node_ref(ref) for ref in it.segments],
                           "marked": [node_ref(ref) for ref in it.marked]}
        return self.framed(HIGH, frame.CHECKPOINT,
                           encode(messages.CHECKPOINT, **same | fields) + behind)

    def of_other_sums(self):
        assert len(self.high_with()) == len(self.objects[HIGH])
        self.restore("the checkpoint has a field that is not known",
                     put={HIGH: self.high_with(behind=UNKNOWN_FIELD).hex()})
        self.restore("the checkpoint says that it is another slot's",
                     put={HIGH: self.high_with(slot=5).hex()})
        self.restore("the checkpoint's hash has 31 bytes",
                     put={HIGH: self.high_with(head_hash=bytes(31)).hex()})
        self.put("the entry behind the checkpoint does not continue it", HIGH,
                 self.high_with(head_hash=blake3(b"another").digest()))
        # Who looks for one backup need not read so much of the checkpoint that this shows.
        for count in ("commit_count", "segment_count", "marked_count"):
            self.add("either", f"{count} is not what is in the blocks",
                     put={HIGH: self.high_with(**{count: 9}).hex()})
