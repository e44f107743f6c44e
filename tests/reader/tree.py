"""From a root to the chunks of a volume (docs/formats/tree.md)."""

from contextlib import suppress

import messages
from messages import ascending, items
from packs import name_of, object_name
from refused import Refused, demand, within

LEAF_CHUNKS, INNER_CHILDREN = 512, 128


def height_of(chunks):
    nodes, height = -(-chunks // LEAF_CHUNKS), 0
    while nodes > 1:
        nodes, height = -(-nodes // INNER_CHILDREN), height + 1
    return height


def positions_of(node, lists, limit):
    """Positions ascend below `limit`, and all lists are as long."""
    demand(all(len(it) == len(node.positions) for it in lists), "a node's lists differ in length")
    demand(all(p < limit for p in node.positions), f"a node's position is over {limit - 1}")
    return ascending(node.positions, "a node's positions")


class Volume:
    """One volume in one backup. `see` may be overridden to look at each place that is read."""

    def __init__(self, packs, commit, chunk_bytes):
        self.packs = packs
        demand(len(commit.roots) == 1, f"a backup has {len(commit.roots)} roots, not 1")
        self.root = root = self.node(commit.roots[0], messages.ROOT)
        with within("the root"):
            demand(root.volume_bytes < 2**63, f"its volume has {root.volume_bytes} bytes")
            demand(root.chunk_bytes == chunk_bytes, "its chunk size is not the repository's")
            self.chunks = -(-root.volume_bytes // chunk_bytes)
            demand(root.height == height_of(self.chunks), "its height does not fit its volume")

    def see(self, folder, pack, ordinal, place):
        """`place` is id, offset and length of the record at `ordinal` of a pack."""

    def node(self, ref, message):
        self.see("tree", ref.pack, ref.ordinal, (ref.id, ref.offset, ref.stored_bytes))
        return self.packs.node(ref, message)

    def write_to(self, write):
        """Calls `write` with the offset and the bytes of each chunk that is not zero."""
        if self.root.top is not None:
            self.walk(self.root.top, self.root.height, 0, write)

    def walk(self, ref, height, index, write):
        if height == 0:
            return self.leaf(ref, index * LEAF_CHUNKS, write)
        node = self.node(ref, messages.INNER)
        with within(name_of(ref)):
            positions = positions_of(node, [node.children], INNER_CHILDREN)
        for position, child in zip(positions, node.children):
            self.walk(child, height - 1, index * INNER_CHILDREN + position, write)

    def leaf(self, ref, first, write):
        leaf = self.node(ref, messages.LEAF)
        with within(name_of(ref)):
            packs, ids = items(leaf.packs, 24, "a pack table"), items(leaf.ids, 32, "a list of ids")
            lists = [ids, leaf.pack, leaf.ordinals, leaf.offsets, leaf.stored_bytes]
            positions = positions_of(leaf, lists, LEAF_CHUNKS)
            demand(all(first + it < self.chunks for it in positions),
                   "a chunk lies behind the volume's end")
            demand(all(it < len(packs) for it in leaf.pack), "a pack is outside the leaf's table")
        for position, chunk_id, pack, *place in zip(positions, *lists):
            self.chunk((first + position) * self.root.chunk_bytes, chunk_id,
                       (packs[pack], *place), write)

    def chunk(self, start, chunk_id, place, write):
        with within(f"the chunk at byte {start}"):
            pack, ordinal, offset, stored_bytes = place
            self.see("data", pack, ordinal, (chunk_id, offset, stored_bytes))
            length = min(self.root.chunk_bytes, self.root.volume_bytes - start)
            write(start, self.take(chunk_id, place, length))

    def take(self, chunk_id, place, length):
        return self.packs.chunk(chunk_id, *place, length)


class HealedVolume(Volume):
    """Looks for a damaged chunk at the other places that `places()` gives for its id."""

    def __init__(self, packs, commit, chunk_bytes, places):
        self.places = places
        super().__init__(packs, commit, chunk_bytes)

    def take(self, chunk_id, place, length):
        try:
            return super().take(chunk_id, place, length)
        except Refused:
            for other in self.places().get(chunk_id, []):
                with suppress(Refused):
                    return super().take(chunk_id, other, length)
            raise


class CheckedVolume(Volume):
    """Holds every place to the footer of its pack, and every pack to the backup's ref set."""

    def __init__(self, packs, commit, chunk_bytes, named):
        self.named = named
        super().__init__(packs, commit, chunk_bytes)

    def see(self, folder, pack, ordinal, place):
        name = object_name(folder, pack)
        demand(pack in self.named[folder], f"{name} is not in the backup's ref set")
        self.packs.demand_listed(folder, pack, ordinal, place)
