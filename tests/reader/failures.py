"""What is done to the repositories of tests/vectors, and what comes of it then.

Each is a dictionary, as it stands in expected.json: changes to the objects, how the repository is
opened, which backup is restored, and what comes of it. The changes are, in this order: `copy`
(names, and the names of the objects that they get the bytes of), `put` (names, and bytes in
hexadecimal), `flip` (name, byte, mask), `remove` (names).
"""

import frame
import messages
from crypt import FIRST_NONCE, seal
from messages import decode, encode
from packs import object_name
from scenario import PASSPHRASES, shake

FIRST, SECOND, THIRD = (f"log/{slot:016x}" for slot in (1, 2, 3))
UNKNOWN_FIELD = bytes.fromhex("fa7f0401020304")


def failures_of(repository, story):
    found = Failures(repository, story)
    found.of_headers()
    found.of_the_log()
    found.of_packs()
    if story.writer.keys:
        found.of_passphrases()
        found.of_slots()
        found.of_seals()
    else:
        found.of_clear_ones()
    return found.list


class Failures:
    def __init__(self, repository, story):
        self.repository, self.story, self.writer = repository, story, story.writer
        self.objects = story.writer.objects
        self.passphrase = PASSPHRASES["everyday"] if story.writer.keys else None
        self.next = f"log/{self.writer.slot + 1:016x}"
        self.list = []

    def add(self, outcome, what, backup="monday", **more):
        opening = {"repository": self.repository, "passphrase": self.passphrase}
        self.list.append({"what": what, "outcome": outcome} | opening | {"backup": backup} | more)

    def refuse(self, what, **more):
        self.add("refused", what, **more)

    def restore(self, what, **more):
        self.add("restored", what, **more)

    def flip(self, what, name, at, mask=1, **more):
        at = at if at >= 0 else len(self.objects[name]) + at
        self.refuse(what, flip=[[name, at, mask]], **more)

    def put(self, what, name, data, **more):
        self.refuse(what, put={name: data.hex()}, **more)

    def of_headers(self):
        for name in ("repository", FIRST):
            for at, mask, what in ((0, 1, "is no object of ringback"),
                                   (9, 3, "has format version 2"), (8, 8, "is of another kind"),
                                   (10, 2, "has another key epoch"),
                                   (11, 128, "has another key epoch"),
                                   (12, 1, "has reserved bytes that are not zero"),
                                   (31, 1, "has another repository's id"),
                                   (33, 4, "is damaged in its body"),
                                   (-1, 128, "is damaged in its check")):
                self.flip(f"{name} {what}", name, at, mask)
            self.refuse(f"{name} is missing", remove=[name])
            self.put(f"{name} is shorter than a header", name, self.objects[name][:31])
            self.put(f"{name} is shorter than 64 bytes", name, self.objects[name][:63])
            self.put(f"{name} has a byte too many", name, self.objects[name] + b"\0")

    def framed(self, name, kind, message):
        """An object as the repository's own writers make them."""
        header = self.writer.header(kind)
        if self.writer.keys:
            salt = shake(f"ringback {self.repository}: {message.hex()}", 32)
            key = self.writer.keys.object_key(salt, name)
            message = salt + seal(key, FIRST_NONCE, header, message)
        return frame.frame(header, name, message)

    def entry(self, **fields):
        fields = {"previous": self.writer.previous, "nonce": bytes(16)} | fields
        return self.framed(self.next, frame.LOG, encode(messages.LOG_ENTRY, **fields))

    def of_the_log(self):
        self.refuse("two entries have changed their places", copy={SECOND: THIRD, THIRD: SECOND})
        self.refuse("the log has a gap", remove=[SECOND])
        self.refuse("there is no such backup", backup="sunday")
        pack = self.story.pack_of("data", "tuesday")
        damage = encode(messages.DAMAGE, packs=pack)
        unknown = encode(messages.LOG_ENTRY, previous=self.writer.previous, nonce=bytes(16))
        self.put("the newest entry is of a kind that is not known", self.next,
                 self.framed(self.next, frame.LOG, unknown + UNKNOWN_FIELD))
        self.put("the newest entry is of no kind", self.next, self.entry())
        self.put("the newest entry does not continue the one before", self.next,
                 self.entry(previous=bytes(32), damage=damage))
        self.put("the newest entry has more than 4096 bytes", self.next,
                 self.entry(damage=encode(messages.DAMAGE, packs=pack * 170)))
        root = encode(messages.NODE_REF, id=bytes(32), pack=bytes(24), offset=32, stored_bytes=1)
        for roots in ([], [root, root]):
            commit = encode(messages.COMMIT, id=bytes(16), name="strange", roots=roots,
                            ref_set=bytes(16), session=bytes(8))
            self.put(f"the newest backup has {len(roots)} roots", self.next,
                     self.entry(commit=commit), backup="strange")
        again = self.entry(commit=encode(
            messages.COMMIT, id=bytes(16), name="monday", roots=[root], ref_set=bytes(16),
            session=bytes(8)))
        self.restore("a second backup has the name of the first", put={self.next: again.hex()})
        self.restore("the newest entry has a field that is not known inside",
                     put={self.next: self.entry(damage=damage + UNKNOWN_FIELD).hex()})
        self.restore("there are names below log/ and checkpoint/ that are no slots",
                     put={"log/0000000000000000": "00", "log/README": "00",
                          "checkpoint/0000000000000000": "00", "checkpoint/README": "00"})

    def of_packs(self):
        data, tree = (object_name(folder, self.story.pack_of(folder, "tuesday"))
                      for folder in ("data", "tree"))
        end = int.from_bytes(self.objects[data][-8:-4], "little") + 41
        for what, name, at in (("the first chunk of a pack", data, 40),
                               ("the first byte of a record", data, 32),
                               ("the last byte of the last record", data, -end),
                               ("a leaf", tree, 100), ("a root", tree, -200)):
            self.flip(f"{what} is damaged", name, at, backup="tuesday")
        for name in (data, tree):
            self.refuse(f"{name} is missing", remove=[name], backup="tuesday")
            self.put(f"{name} is cut off", name, self.objects[name][:40], backup="tuesday")
        first = object_name("data", self.story.pack_of("data", "monday"))
        self.refuse("a pack holds what another held", copy={data: first}, backup="tuesday")
        self.add("either", "a chunk is damaged, and lies whole in the pack of thursday",
                 flip=[[first, 40, 1]])
        beside = [name for name in self.objects if name.startswith(("refs/", "index/"))]
        self.restore("no restore reads ref sets and index segments", remove=sorted(beside))
        self.restore("no restore reads footers", backup="tuesday",
                     flip=[[name, len(self.objects[name]) - 60, 255] for name in (data, tree)])

    def of_clear_ones(self):
        self.refuse("it is not encrypted, but a passphrase is given",
                    passphrase=PASSPHRASES["everyday"])
        header = frame.Header(frame.REPOSITORY, 1, self.writer.repository).to_bytes()
        body = self.objects["repository"][32:-32]
        self.put("it is encrypted, but has no key check", "repository",
                 frame.frame(header, "repository", body), passphrase=PASSPHRASES["everyday"])
        for chunk_bytes in (0, 32768, 65537, 8388608):
            self.put(f"its chunk size is {chunk_bytes}", "repository",
                     self.repository_with(chunk_bytes=chunk_bytes))
        self.put("its ids differ", "repository", self.repository_with(id=bytes(16)))
        self.restore("it has a field that is not known",
                     put={"repository": self.repository_with(behind=UNKNOWN_FIELD).hex()})

    def repository_with(self, epoch=None, behind=b"", stretching=(), **fields):
        """`repository` with other fields, and a check that fits."""
        header = self.writer.header(frame.REPOSITORY, epoch)
        it = vars(decode(self.objects["repository"][32:-32], messages.REPOSITORY)) | fields
        if stretching is None:
            it["stretching"] = None
        elif it["stretching"] is not None:
            changed = vars(it["stretching"]) | dict(stretching)
            it["stretching"] = encode(messages.STRETCHING, **changed)
        return frame.frame(header, "repository", encode(messages.REPOSITORY, **it) + behind)

    def of_passphrases(self):
        everyday = PASSPHRASES["everyday"]
        self.refuse("no passphrase is given", passphrase=None)
        for wrong in (everyday[:-1], everyday + " ", everyday.upper()):
            self.refuse("the passphrase is another", passphrase=wrong)
        self.refuse("a passphrase has no bytes", passphrase="")
        self.refuse("a passphrase has more than 1024 bytes", passphrase=everyday * 40)
        self.restore("the other passphrase opens it as well", passphrase=PASSPHRASES["the safe"])
        for name, value in (("memory_kib", 8191), ("memory_kib", 2**32 - 1), ("iterations", 0),
                            ("iterations", 65), ("lanes", 0), ("lanes", 17), ("salt", bytes(15))):
            self.put(f"{name} of the stretching is out of its range", "repository",
                     self.repository_with(stretching={name: value}))
        self.put("its key check is missing", "repository", self.repository_with(key_check=b""))
        self.put("its stretching is missing", "repository", self.repository_with(stretching=None))
        self.put("its key epoch is 0", "repository", self.repository_with(epoch=0))
        self.put("its chunk size was changed", "repository",
                 self.repository_with(chunk_bytes=131072))
        self.put("its time was changed", "repository", self.repository_with(created_ms=1))

    def of_slots(self):
        everyday, safe = (f"keys/{self.story.random(f'slot {label}', 16).hex()}"
                          for label in PASSPHRASES)
        slots = sorted(name for name in self.objects if name.startswith("keys/"))
        self.refuse("there are no key slots", remove=slots)
        self.refuse("its key slot was taken away", remove=[everyday])
        self.restore("the other key slot was taken away", remove=[safe])
        for at in (9, 50, 100, 150):
            self.flip("its key slot is damaged", everyday, at)
            self.restore("the other key slot is damaged", flip=[[safe, at, 1]])
        other = "keys/" + 32 * "0"
        header, body = self.objects[everyday][:32], self.objects[everyday][32:-32]
        self.refuse("its key slot has another's name", remove=[everyday],
                    put={other: frame.frame(header, other, body).hex()})
        self.restore("there are names below keys/ that are no slots", put={"keys/README": "00"})

    def of_seals(self):
        damage = encode(messages.DAMAGE, packs=self.story.pack_of("data", "tuesday"))
        entry = encode(messages.LOG_ENTRY, previous=self.writer.previous, nonce=bytes(16),
                       damage=damage)
        clear = self.writer.header(frame.LOG, epoch=0)
        self.put("the newest entry is not sealed", self.next, frame.frame(clear, self.next, entry))
        self.put("the newest entry is not sealed, but says that it is", self.next,
                 frame.frame(self.writer.header(frame.LOG), self.next, entry))
        sealed = bytes(32) + seal(bytes(32), FIRST_NONCE, self.writer.header(frame.LOG), entry)
        self.put("the newest entry is sealed with another key", self.next,
                 frame.frame(self.writer.header(frame.LOG), self.next, sealed))
        self.put("the newest entry is too short to be sealed", self.next,
                 frame.frame(self.writer.header(frame.LOG), self.next, bytes(47)))
        header, body = self.objects[FIRST][:32], self.objects[FIRST][32:-32]
        self.put("an entry is sealed for another slot", SECOND,
                 frame.frame(header, SECOND, body))
        for at in (0, 31, 32, -1):
            changed = bytearray(body)
            changed[at] ^= 1
            self.put("an entry's sealed bytes are changed, and its check fits", FIRST,
                     frame.frame(header, FIRST, bytes(changed)))
