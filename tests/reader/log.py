"""The log, ref sets and index segments (docs/formats/log.md)."""

import re

from blake3 import blake3

import checkpoint
import frame
import messages
from messages import ascending, items
from packs import object_name
from refused import Refused, Unknown, demand, within

MAX_ENTRY_BYTES, MAX_REF_SETS = 4096, 64


class History:
    """What the log says up to a slot: backups by name, live index segments, marked packs."""

    def __init__(self):
        self.slot, self.head_hash = 0, b""
        self.commits, self.segments, self.marked = {}, [], set()

    def read_entry(self, repository):
        """Takes up the entry in the next slot."""
        name = f"log/{self.slot + 1:016x}"
        entry, data = repository.read_object(name, frame.LOG, messages.LOG_ENTRY, MAX_ENTRY_BYTES)
        with within(name):
            demand(entry.previous == self.head_hash, "it does not continue the entry before")
            demand(len(entry.nonce) == 16, "its nonce has not 16 bytes")
            self.take(entry)
        self.slot, self.head_hash = self.slot + 1, blake3(data).digest()

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


def slots_below(repository, prefix):
    """Slots of the log's entries or of checkpoints, ascending; what is no slot is passed over."""
    pattern = re.compile(f"{prefix}([0-7][0-9a-f]{{15}})")
    found = filter(None, map(pattern.fullmatch, repository.store.names(prefix)))
    return [slot for slot in (int(it[1], 16) for it in found) if slot]


def replay(repository, packs):
    """The history from the highest checkpoint that is whole, and the entries behind it."""
    history, damaged = History(), []
    for slot in reversed(slots_below(repository, "checkpoint/")):
        try:
            history = checkpoint.read(repository, packs, slot)
            break
        except Unknown:
            raise
        except Refused as refused:
            damaged.append((slot, refused))
    try:
        follow(repository, history)
        short = "the log ends too early"
    except Refused as refused:
        short = str(refused)
        if not damaged or history.slot >= damaged[0][0]:
            raise
    for slot, refused in damaged:
        demand(history.slot >= slot, f"{short}, and a checkpoint is damaged: {refused}")
    return history


def follow(repository, history, at_slot=lambda: None):
    """Takes up the entries behind a history; `at_slot` is called behind each."""
    behind = [slot for slot in slots_below(repository, "log/") if slot > history.slot]
    for slot in behind:
        demand(slot == history.slot + 1, f"the log has no slot {history.slot + 1}, but slot {slot}")
        history.read_entry(repository)
        at_slot()


def check(repository, packs):
    """The history from all entries that must be there, which all checkpoints must agree with."""
    summed = {slot: checkpoint.read(repository, packs, slot, packs.demand_listed)
              for slot in slots_below(repository, "checkpoint/")}
    history = History()
    if len(summed) > 1 and 1 not in slots_below(repository, "log/"):
        history = summed.pop(sorted(summed)[-2])
    since = history.slot

    def compare():
        if history.slot in summed:
            same = vars(summed.pop(history.slot)) == vars(history)
            demand(same, f"the checkpoint of slot {history.slot} says what the log does not say")
    follow(repository, history, compare)
    demand(all(slot < since for slot in summed), "the log ends before a checkpoint")
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
