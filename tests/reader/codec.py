"""Payloads of chunks (docs/formats/pack.md), never inflated beyond the chunk they are to be."""

import io

import lz4.block
import zstandard

from refused import demand

RAW, LZ4, ZSTD = 0, 1, 2
# A window is no more than an announcement: a chunk fills little of it. This much zstd takes by itself.
MAX_WINDOW_BYTES = 1 << 27


def expand(codec, payload, chunk_bytes):
    """The chunk's bytes, `chunk_bytes` of them."""
    demand(codec in (RAW, LZ4, ZSTD), f"codec {codec} is not known to this reader")
    if codec == RAW:
        demand(len(payload) == chunk_bytes, "a raw record has not the chunk's length")
        return payload
    demand(len(payload) < chunk_bytes, "a compressed record is no shorter than the chunk")
    chunk = {LZ4: from_lz4, ZSTD: from_zstd}[codec](payload, chunk_bytes)
    demand(len(chunk) == chunk_bytes, "a compressed record gives a chunk of another length")
    return chunk


def from_lz4(block, chunk_bytes):
    try:
        return lz4.block.decompress(block, uncompressed_size=chunk_bytes)
    except lz4.block.LZ4BlockError as error:
        demand(False, f"an LZ4 block is damaged: {error}")


def from_zstd(frame, chunk_bytes):
    """Exactly one frame; a byte more than wanted is asked for, so that a longer one shows."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
        demand(parameters.dict_id == 0, "a zstd frame asks for a dictionary")
        demand(end_of_frame(frame, parameters.has_checksum) == len(frame),
               "a zstd record is not exactly one frame")
        inflater = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        return inflater.stream_reader(io.BytesIO(frame)).read(chunk_bytes + 1)
    except zstandard.ZstdError as error:
        demand(False, f"a zstd frame is damaged: {error}")


def end_of_frame(frame, has_checksum):
    """Where the frame's last block ends, its checksum included (RFC 8878, 3.1.1)."""
    demand(frame[:4] == b"\x28\xb5\x2f\xfd", "a zstd record does not begin with a frame")
    at, last = zstandard.frame_header_size(frame), 0
    while not last:
        demand(at + 3 <= len(frame), "a zstd frame ends inside a block")
        head = int.from_bytes(frame[at:at + 3], "little")
        last, kind, length = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == 1 else length)
    return at + 4 * has_checksum
