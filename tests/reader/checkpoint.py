"""Summaries of the log (docs/formats/checkpoint.md)."""

import frame
import log
import messages
from messages import ascending, decode, items
from packs import name_of
from refused import demand, within


def read(repository, packs, slot, look=None):
    """The history that the checkpoint of a slot tells, from all of its blocks.

    `look` is called with the place of each block: folder, pack, ordinal; id, offset, length.
    """
    name = f"checkpoint/{slot:016x}"
    message, _ = repository.read_object(name, frame.CHECKPOINT, messages.CHECKPOINT)
    with within(name):
        demand(message.slot == slot, f"it says that it is of slot {message.slot}")
        demand(len(message.head_hash) == 32, "its hash of the log has not 32 bytes")
        history = log.History()
        history.slot, history.head_hash = slot, message.head_hash

        def block(ref):
            if look:
                look("tree", ref.pack, ref.ordinal, (ref.id, ref.offset, ref.stored_bytes))
            return packs.node_bytes(ref)
        for it in message.commits:
            read_commits(history, it, block(it.record))
        ascending([it.encode() for it in history.commits], "the names of its commits")
        history.segments = [it for ref in message.segments for it in names_in(ref, block(ref))]
        marked = [it for ref in message.marked for it in names_in(ref, block(ref))]
        history.marked = set(ascending(marked, "the names of its marked packs"))
        for what, found, count in (("commits", history.commits, message.commit_count),
                                   ("segments", history.segments, message.segment_count),
                                   ("marked packs", history.marked, message.marked_count)):
            demand(len(found) == count, f"it has {len(found)} {what}, and says {count}")
    return history


def names_in(ref, block):
    with within(name_of(ref)):
        return items(block, 24, "a block of names")


def read_commits(history, block, data):
    with within(name_of(block.record)):
        commits = decode(data, messages.COMMIT_LIST).commits
        demand(commits, "a block has no commits")
        for it in commits:
            demand(1 <= it.slot <= history.slot, f"a commit of slot {it.slot} is in it")
            demand(it.commit is not None, "a commit is missing")
            demand(it.commit.name not in history.commits, f"{it.commit.name!r} is there twice")
            log.check_commit(it.commit)
            history.commits[it.commit.name] = it.commit
        demand(commits[0].commit.name == block.first_name, "its first name is another")
