#!/usr/bin/env python3
"""same.py ONE OTHER: whether two files have the same bytes; their holes are passed over."""

import os
import sys

PIECE_BYTES = 1 << 20


def data_of(file, size):
    """Offset and length of pieces that may hold anything but zeros."""
    end = 0
    while end < size:
        try:
            at = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        end = os.lseek(file, at, os.SEEK_HOLE)
        for start in range(at, end, PIECE_BYTES):
            yield start, min(PIECE_BYTES, end - start)


def main(*paths):
    one, other = files = [os.open(path, os.O_RDONLY) for path in paths]
    sizes = [os.fstat(file).st_size for file in files]
    if sizes[0] != sizes[1]:
        sys.exit(f"{paths[0]} has {sizes[0]} bytes, {paths[1]} {sizes[1]}")
    for file in files:
        for start, length in data_of(file, sizes[0]):
            if os.pread(one, length, start) != os.pread(other, length, start):
                sys.exit(f"{paths[0]} and {paths[1]} differ within {length} bytes from {start}")


main(*sys.argv[1:])
