"""BLAKE3 from its paper, slow: the package `blake3` is a shell around code that ringback uses too."""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
ROUNDS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
          (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
KEYED, DERIVE_CONTEXT, DERIVE_MATERIAL = 16, 32, 64
BLOCK, CHUNK, MASK = 64, 1024, 2**32 - 1


def turned(word, by):
    return (word >> by | word << (32 - by)) & MASK


def mix(v, a, b, c, d, first, second):
    for message, x, y in ((first, 16, 12), (second, 8, 7)):
        v[a] = (v[a] + v[b] + message) & MASK
        v[d] = turned(v[d] ^ v[a], x)
        v[c] = (v[c] + v[d]) & MASK
        v[b] = turned(v[b] ^ v[c], y)


def compress(chaining, block, counter, length, flags):
    words = struct.unpack("<16I", block.ljust(BLOCK, b"\0"))
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for step, columns in enumerate(ROUNDS):
            mix(v, *columns, words[2 * step], words[2 * step + 1])
        words = [words[at] for at in PERMUTATION]
    return [a ^ b for a, b in zip(v[:8], v[8:])]


def node(key, data, number, flags, last):
    """The chaining value over at most 1024 bytes, or over all of them."""
    if len(data) <= CHUNK:
        value, blocks = key, [data[at:at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
        for at, block in enumerate(blocks):
            ends = CHUNK_START * (at == 0)
            if at == len(blocks) - 1:
                ends |= CHUNK_END | last
            value = compress(value, block, number, len(block), flags | ends)
        return value
    left = CHUNK
    while left * 2 < len(data):
        left *= 2
    both = (node(key, data[:left], number, flags, 0)
            + node(key, data[left:], number + left // CHUNK, flags, 0))
    return compress(key, struct.pack("<16I", *both), 0, BLOCK, flags | PARENT | last)


def digest(data, key=None, context=None):
    """32 bytes of BLAKE3: plain, keyed, or in its key derivation mode."""
    words, flags = IV, 0
    if key is not None:
        words, flags = struct.unpack("<8I", key), KEYED
    if context is not None:
        words, flags = node(IV, context.encode(), 0, DERIVE_CONTEXT, ROOT), DERIVE_MATERIAL
    return struct.pack("<8I", *node(words, data, 0, flags, ROOT))
