"""An independent writer of small repositories, from docs/formats alone.

It keeps all objects in memory. Its random bytes come from outside, so that the same calls always
make the same objects.
"""

import dataclasses
import struct
from dataclasses import dataclass

from blake3 import blake3

import frame
import messages
from crypt import (FIRST_NONCE, FOOTER_ORDINAL, SALT_BYTES, Clear, Sealed, nonce_of, seal, slot_key,
                   stretch)
from messages import decode, encode, field, items
from packs import KINDS, MARK, object_name
from tree import INNER_CHILDREN, LEAF_CHUNKS, height_of

SECTOR_BYTES = 512
SESSION_CONTEXT = "ringback repository format 1: session id"


def session_id(repository, identity, run=0, compared_with=b"", id_key=b""):
    sizes = struct.pack("<I", run), struct.pack("<Q", len(compared_with))
    material = id_key + repository + sizes[0] + sizes[1] + compared_with + identity.encode()
    return blake3(material, derive_key_context=SESSION_CONTEXT).digest(8)


@dataclass
class Volume:
    """What is to be backed up: chunks by their number, and how their records are made.

    A chunk that is missing was never written; `records` has codec and payload of chunks that are
    not stored raw.
    """
    handle: str
    identity: str
    volume_bytes: int
    chunks: dict
    records: dict = dataclasses.field(default_factory=dict)


@dataclass
class Backup:
    """One that was written, as the next one of the volume needs it."""
    commit_id: bytes
    ref_set: bytes
    depth: int
    named: dict
    chunks: dict
    nodes: dict


class Writer:
    """`keys` are none for a repository that is not encrypted; `random(what, length)` gives bytes."""

    def __init__(self, random, chunk_bytes, keys=None):
        self.random, self.chunk_bytes, self.keys = random, chunk_bytes, keys
        self.crypt = Sealed(keys) if keys else Clear()
        self.repository = random("repository id", 16)
        self.objects = {}
        self.places = {}
        self.slot, self.previous = 0, b""
        self.commits, self.live, self.marked = {}, [], set()

    def header(self, kind, epoch=None):
        epoch = self.crypt.epoch if epoch is None else epoch
        return frame.Header(kind, epoch, self.repository).to_bytes()

    def begin(self, created_ms, stretching=None):
        """Puts `repository`; `stretching` are memory, iterations and lanes, by name."""
        header = self.header(frame.REPOSITORY)
        fields = {"id": self.repository, "chunk_bytes": self.chunk_bytes, "created_ms": created_ms}
        if stretching:
            salt = self.random("salt of passphrases", 16)
            fields["stretching"] = encode(messages.STRETCHING, salt=salt, **stretching)
            message = encode(messages.REPOSITORY, **fields)
            fields["key_check"] = self.keys.check(header, message)
        message = encode(messages.REPOSITORY, **fields)
        self.objects["repository"] = frame.frame(header, "repository", message)

    def put_slot(self, label, passphrase, created_ms, stretching):
        """Puts a key slot. Its salt for passphrases is that of `repository`."""
        slot_id = self.random(f"slot {label}", 16)
        name, header = f"keys/{slot_id.hex()}", self.header(frame.KEYS, epoch=0)
        salt = self.random("salt of passphrases", 16)
        stretched = stretch(passphrase.encode(), salt, *stretching.values())
        associated = header + name.encode()
        keys = encode(messages.KEYS, seal_key=self.keys.seal_key, id_key=self.keys.id_key)
        about = encode(messages.ABOUT, label=label, created_ms=created_ms)
        slot = encode(messages.KEY_SLOT,
                      wrapped=seal(slot_key(stretched, slot_id), FIRST_NONCE, associated, keys),
                      about=seal(self.keys.about_key(slot_id), FIRST_NONCE, associated, about))
        self.objects[name] = frame.frame(header, name, slot)

    def put(self, name, kind, message):
        header = self.header(kind)
        if self.keys:
            salt = self.random(f"salt of {name}", SALT_BYTES)
            key = self.keys.object_key(salt, name)
            message = salt + seal(key, FIRST_NONCE, header, message)
        self.objects[name] = frame.frame(header, name, message)

    def put_pack(self, folder, name, records):
        """`records` are ids and texts. Returns the places by id, as a `NodeRef` has them."""
        object_at, header = object_name(folder, name), self.header(KINDS[folder])
        data, places, lengths = header, {}, []
        for ordinal, (record_id, text) in enumerate(records):
            record = self.sealed_record(object_at, ordinal, record_id, text)
            places[record_id] = name, ordinal, len(data), len(record)
            lengths.append(len(record))
            data += record
        ids = b"".join(record_id for record_id, _ in records)
        footer = encode(messages.FOOTER, ids=ids, stored_bytes=lengths)
        footer = self.sealed_record(object_at, FOOTER_ORDINAL, header, footer)
        check = frame.check_of(header, object_at, footer)
        self.objects[object_at] = data + footer + check + struct.pack("<I", len(footer)) + MARK
        return places

    def sealed_record(self, pack, ordinal, associated, text):
        if not self.keys:
            return text
        return seal(self.keys.pack_key(pack), nonce_of(ordinal), associated, text)

    def record(self, codec, payload):
        return payload + bytes([codec]) if self.keys else bytes([codec]) + payload

    def append(self, **kind):
        """An entry of the log; its nonce is drawn for its slot."""
        self.slot += 1
        name = f"log/{self.slot:016x}"
        nonce = self.random(f"nonce of {name}", 16)
        entry = encode(messages.LOG_ENTRY, previous=self.previous, nonce=nonce, **kind)
        self.put(name, frame.LOG, entry)
        self.previous = blake3(self.objects[name]).digest()
        self.remember(decode(entry, messages.LOG_ENTRY), kind.get("commit"))

    def remember(self, entry, commit):
        """What a checkpoint says of an entry; `commit` is encoded."""
        if entry.commit:
            slotted = encode(messages.SLOTTED_COMMIT, slot=self.slot, commit=commit)
            self.commits.setdefault(entry.commit.name.encode(), slotted)
            self.live += items(entry.commit.segments, 24, "segments")
        elif entry.segments:
            dropped = items(entry.segments.dropped, 24, "segments")
            self.live = [it for it in self.live if it not in dropped]
            self.live += items(entry.segments.added, 24, "segments")
        else:
            self.marked.update(items(entry.damage.packs, 24, "packs"))

    def put_checkpoint(self, pack, commits_in_block):
        """Puts the checkpoint of the newest entry, and its blocks into the tree pack `pack`."""
        names = sorted(self.commits)
        firsts = names[::commits_in_block]
        blocks = [b"".join(field(1, self.commits[it]) for it in names[at:at + commits_in_block])
                  for at in range(0, len(names), commits_in_block)]
        tables = [b"".join(self.live), b"".join(sorted(self.marked))]
        records = [(self.crypt.id_of(it), it) for it in [*blocks, *filter(None, tables)]]
        places = self.put_pack("tree", pack, records) if records else {}
        refs = [[self.node_ref(self.crypt.id_of(it), places[self.crypt.id_of(it)])] if it else []
                for it in [*blocks, *tables]]
        commits = [encode(messages.COMMIT_BLOCK, first_name=first.decode(), record=ref)
                   for first, (ref,) in zip(firsts, refs)]
        message = encode(messages.CHECKPOINT, slot=self.slot, head_hash=self.previous,
                         commits=commits, segments=refs[-2], marked=refs[-1],
                         commit_count=len(names), segment_count=len(self.live),
                         marked_count=len(self.marked))
        self.put(f"checkpoint/{self.slot:016x}", frame.CHECKPOINT, message)

    def pack_name(self, session, folder, backup):
        return session + bytes(4) + self.random(f"{folder} pack of {backup}", 12)

    def node_ref(self, node_id, place):
        pack, ordinal, offset, length = place
        return encode(messages.NODE_REF, id=node_id, pack=pack, ordinal=ordinal, offset=offset,
                      stored_bytes=length)

    def back_up(self, name, volume, created_ms, parent=None, session=None, avoid=(), sent=0,
                count_packed=True):
        """Stores a volume and appends its commit. Records in the packs `avoid` are not used."""
        session = session or session_id(
            self.repository, volume.identity, compared_with=parent.commit_id if parent else b"",
            id_key=self.keys.id_key if self.keys else b"")
        chunks = {number: (self.crypt.id_of(data), data)
                  for number, data in sorted(volume.chunks.items()) if any(data)}
        segments, sent = self.store_chunks(name, session, volume, chunks, avoid, sent)
        packed = {"packed_bytes": self.packed_bytes(name, session) if count_packed else 0}
        statistics = self.statistics(volume, chunks, parent, segments, sent_bytes=sent, **packed)
        tree_pack = self.pack_name(session, "tree", name)
        trunk = Trunk(self, tree_pack, parent)
        shared = dict(volume_bytes=volume.volume_bytes, chunk_bytes=self.chunk_bytes,
                      created_ms=created_ms, statistics=statistics, volume_handle=volume.handle,
                      volume_identity=volume.identity)
        root = trunk.root(chunks, shared, parent)
        self.put_pack("tree", tree_pack, trunk.new)
        named = {"data": {self.places[chunk_id][0] for chunk_id, _ in chunks.values()},
                 "tree": {place[0] for place, _ in trunk.nodes.values()}}
        backup = Backup(self.random(f"commit of {name}", 16), *self.ref_set(name, named, parent),
                        named, chunks, trunk.nodes)
        self.append(commit=encode(
            messages.COMMIT, id=backup.commit_id, name=name, request_name=f"nightly-{name}",
            roots=[root], ref_set=backup.ref_set, session=session, segments=b"".join(segments),
            **shared))
        return backup

    def store_chunks(self, name, session, volume, chunks, avoid, sent):
        """Stores what is new, and returns the names of the segments that say so."""
        new = {}
        for number, (chunk_id, data) in chunks.items():
            place = self.places.get(chunk_id)
            if chunk_id not in new and (place is None or place[0] in avoid):
                new[chunk_id] = self.record(*volume.records.get(number, (0, data)))
        if not new:
            return [], sent
        pack = self.pack_name(session, "data", name)
        self.places.update(self.put_pack("data", pack, list(new.items())))
        segment = self.pack_name(session, "index", name)
        self.put_segment(segment, [pack])
        written = object_name("data", pack), object_name("index", segment)
        return [segment], sent + sum(len(self.objects[it]) for it in written)

    def put_segment(self, segment, packs):
        """Packs as the places know them."""
        listed = []
        for pack in packs:
            records = sorted((place[1], chunk_id, place[3])
                             for chunk_id, place in self.places.items() if place[0] == pack)
            listed.append(encode(messages.INDEXED_PACK, name=pack,
                                 ids=b"".join(it[1] for it in records),
                                 stored_bytes=[it[2] for it in records]))
        self.put(object_name("index", segment), frame.INDEX,
                 encode(messages.INDEX_SEGMENT, packs=listed))

    def packed_bytes(self, name, session):
        """Length of the records in the data pack of a backup."""
        pack = self.pack_name(session, "data", name)
        return sum(place[3] for place in self.places.values() if place[0] == pack)

    def statistics(self, volume, chunks, parent, segments, **counted):
        kinds = dict.fromkeys(("hole", "zero", "unchanged", "duplicate", "new"), 0)
        seen = set()
        fresh = {chunk_id for chunk_id, place in self.places.items()
                 if segments and place[0][:8] == segments[0][:8]}
        for number in range(-(-volume.volume_bytes // self.chunk_bytes)):
            length = min(self.chunk_bytes, volume.volume_bytes - number * self.chunk_bytes)
            if number not in chunks:
                kind = "zero" if number in volume.chunks else "hole"
            elif chunks[number][0] in fresh and chunks[number][0] not in seen:
                kind = "new"
            elif parent and parent.chunks.get(number) == chunks[number]:
                kind = "unchanged"
            else:
                kind = "duplicate"
            seen.add(chunks.get(number, [None])[0])
            kinds[kind] += length
        fields = {f"{kind}_bytes": count for kind, count in kinds.items()}
        return encode(messages.STATISTICS, **fields, **counted)

    def ref_set(self, name, named, parent):
        """Id and depth of a set of the packs `named`, as a change of the parent's."""
        before = parent.named if parent else {"data": set(), "tree": set()}
        depth = parent.depth + 1 if parent else 0
        tables = {}
        for folder in ("data", "tree"):
            tables[f"added_{folder}"] = b"".join(sorted(named[folder] - before[folder]))
            tables[f"dropped_{folder}"] = b"".join(sorted(before[folder] - named[folder]))
        set_id = self.random(f"ref set of {name}", 16)
        self.put(f"refs/{set_id.hex()}", frame.REFS,
                 encode(messages.REF_SET, parent=parent.ref_set if parent else b"", depth=depth,
                        **tables))
        return set_id, depth


class Trunk:
    """The nodes of one tree: those of the parent's tree where they are the same, others new."""

    def __init__(self, writer, pack, parent):
        self.writer, self.pack = writer, pack
        self.known = parent.nodes if parent else {}
        self.nodes = {}
        self.new = []
        self.offset = frame.HEADER_BYTES

    def root(self, chunks, shared, parent):
        """The reference to the root of a tree over `chunks`."""
        height = height_of(-(-shared["volume_bytes"] // shared["chunk_bytes"]))
        top = self.grow(chunks, height)
        node = encode(messages.ROOT, sector_bytes=SECTOR_BYTES, height=height,
                      parent=parent.commit_id if parent else b"",
                      top=top and self.ref(top), **shared)
        return self.ref(self.add(node, []))

    def ref(self, node_id):
        return self.writer.node_ref(node_id, self.nodes[node_id][0])

    def grow(self, chunks, height):
        """Id of the top; none if there are no chunks."""
        level = {}
        for index in sorted({number // LEAF_CHUNKS for number in chunks}):
            first = index * LEAF_CHUNKS
            level[index] = self.leaf({number - first: chunks[number][0] for number in chunks
                                      if number // LEAF_CHUNKS == index})
        for above in range(height):
            below, level = level, {}
            for index in sorted({number // INNER_CHILDREN for number in below}):
                first = index * INNER_CHILDREN
                level[index] = self.inner({number - first: below[number] for number in below
                                           if number // INNER_CHILDREN == index}, above == 0)
        return level.get(0)

    def leaf(self, ids):
        places = [self.writer.places[chunk_id] for chunk_id in ids.values()]
        table = list(dict.fromkeys(place[0] for place in places))
        node = encode(messages.LEAF, packs=b"".join(table), positions=list(ids),
                      ids=b"".join(ids.values()), pack=[table.index(it[0]) for it in places],
                      ordinals=[it[1] for it in places], offsets=[it[2] for it in places],
                      stored_bytes=[it[3] for it in places])
        return self.add(node, table)

    def inner(self, children, over_leaves):
        table = sorted({pack for child in children.values() for pack in self.nodes[child][1]})
        refs = [self.ref(child) for child in children.values()]
        node = encode(messages.INNER, positions=list(children), children=refs,
                      data_packs=b"".join(table) if over_leaves else b"")
        return self.add(node, table)

    def add(self, node, table):
        """Takes a node into the tree, and into the pack of this backup if it is new."""
        node_id = self.writer.crypt.id_of(node)
        if node_id in self.known:
            self.nodes[node_id] = self.known[node_id]
        elif node_id not in self.nodes:
            length = len(node) + self.writer.crypt.tag_bytes
            place = self.pack, len(self.new), self.offset, length
            self.nodes[node_id] = place, table
            self.new.append((node_id, node))
            self.offset += length
        return node_id
