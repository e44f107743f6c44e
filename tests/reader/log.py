"""The log, ref sets and index segments (docs/formats/log.md)."""

import re

from blake3 import blake3

import frame
import messages
from messages import ascending, items
from packs import object_name
from refused import demand, within

SLOT_NAME = re.compile("log/[0-9a-f]{16}")
MAX_ENTRY_BYTES, MAX_REF_SETS = 4096, 64


class History:
    """What the log says: backups by name, live index segments, marked packs."""

    def __init__(self):
        self.commits, self.segments, self.marked = {}, [], set()

    def take(self, entry):
        kinds = [it for it in (entry.commit, entry.segments, entry.damage) if it is not None]
        demand(kinds, "it is of a kind that this reader does not know")
        demand(len(kinds) == 1, "it is of several kinds")
        if entry.commit is not None:
            check_commit(entry.commit)
            self.commits.setdefault(entry.commit.name, entry.commit)
            self.segments += names_of(entry.commit.segments)
        elif entry.segments is not None:
            dropped = names_of(entry.segments.dropped)
            self.segments = [it for it in self.segments if it not in dropped]
            self.segments += names_of(entry.segments.added)
        else:
            self.marked.update(names_of(entry.damage.packs))


def replay(repository):
    """Reads the log from its first slot to its last."""
    demand(not repository.store.names("checkpoint/"), "there are checkpoints")
    slots = [int(name[4:], 16) for name in repository.store.names("log/")
             if SLOT_NAME.fullmatch(name)]
    history, previous = History(), b""
    for slot, found in enumerate((it for it in slots if it), 1):
        name = f"log/{found:016x}"
        demand(found == slot, f"the log has no slot {slot}, but {name}")
        entry, data = repository.read_object(name, frame.LOG, messages.LOG_ENTRY, MAX_ENTRY_BYTES)
        with within(name):
            demand(entry.previous == previous, "it does not continue the entry before")
            demand(len(entry.nonce) == 16, "its nonce has not 16 bytes")
            history.take(entry)
        previous = blake3(data).digest()
    return history


def names_of(table):
    return items(table, 24, "a table of names")


def check_commit(commit):
    demand(len(commit.roots) == 1, f"its backup has {len(commit.roots)} roots, not 1")
    for what, value, length in (("id", commit.id, 16), ("ref set", commit.ref_set, 16),
                                ("session", commit.session, 8)):
        demand(len(value) == length, f"its backup's {what} has not {length} bytes")


def ref_set(repository, set_id):
    """Names of the data packs and of the tree packs of a backup, by folder."""
    chain = []
    while set_id:
        demand(len(chain) < MAX_REF_SETS, "a chain of ref sets has more than 64")
        demand(len(set_id) == 16, "the id of a ref set has not 16 bytes")
        name = f"refs/{set_id.hex()}"
        it, _ = repository.read_object(name, frame.REFS, messages.REF_SET)
        chain.append((name, it))
        set_id = it.parent
    named = {"data": set(), "tree": set()}
    for depth, (name, it) in enumerate(reversed(chain)):
        with within(name):
            demand(it.depth == depth, f"its depth is {it.depth}, not {depth}")
            change(named["data"], it.dropped_data, it.added_data)
            change(named["tree"], it.dropped_tree, it.added_tree)
    return named


def change(names, dropped, added):
    dropped, added = (ascending(names_of(table), "the names of a table")
                      for table in (dropped, added))
    demand(names.issuperset(dropped), "it drops a pack that is not there")
    demand(not set(dropped) & set(added), "it drops and adds the same pack")
    names.difference_update(dropped)
    names.update(added)


def segment(repository, pack):
    """The packs of an index segment: name, ids and lengths of the records."""
    name = object_name("index", pack)
    message, _ = repository.read_object(name, frame.INDEX, messages.INDEX_SEGMENT)
    with within(name):
        for it in message.packs:
            ids = items(it.ids, 32, "a list of ids")
            demand(len(ids) == len(it.stored_bytes), "lists of a pack differ in length")
            yield it.name, list(zip(ids, it.stored_bytes))


def check_segment(repository, packs, name):
    """An index segment repeats what the footers of its packs say."""
    for pack, records in segment(repository, name):
        listed = [(record_id, length) for record_id, _, length in packs.footer("data", pack)]
        demand(records == listed, f"{object_name('index', name)} is not what a footer says")


def places(repository, history):
    """Where the live index segments say that chunks lie, marked packs last: by id, a list of
    pack, ordinal, offset, length."""
    found = {}
    for name in reversed(history.segments):
        for pack, records in segment(repository, name):
            offset = frame.HEADER_BYTES
            for ordinal, (chunk_id, length) in enumerate(records):
                found.setdefault(chunk_id, []).append((pack, ordinal, offset, length))
                offset += length
    for each in found.values():
        each.sort(key=lambda place: place[0] in history.marked)
    return found
