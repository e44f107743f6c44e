"""Protocol Buffers by hand, and the messages of docs/formats."""

from types import SimpleNamespace

from refused import demand

# Messages: field number -> name, and type: int, bytes, str, [int], a message, [a message].
STRETCHING = {1: ("salt", bytes), 2: ("memory_kib", int), 3: ("iterations", int), 4: ("lanes", int)}
REPOSITORY = {1: ("id", bytes), 2: ("chunk_bytes", int), 3: ("created_ms", int),
              4: ("stretching", STRETCHING), 5: ("key_check", bytes)}
KEY_SLOT = {1: ("wrapped", bytes), 2: ("about", bytes)}
KEYS = {1: ("seal_key", bytes), 2: ("id_key", bytes)}
ABOUT = {1: ("label", str), 2: ("created_ms", int)}
FOOTER = {1: ("ids", bytes), 2: ("stored_bytes", [int])}
LEAF = {1: ("packs", bytes), 2: ("positions", [int]), 3: ("ids", bytes), 4: ("pack", [int]),
        5: ("ordinals", [int]), 6: ("offsets", [int]), 7: ("stored_bytes", [int])}
NODE_REF = {1: ("id", bytes), 2: ("pack", bytes), 3: ("ordinal", int), 4: ("offset", int),
            5: ("stored_bytes", int)}
INNER = {1: ("positions", [int]), 2: ("children", [NODE_REF]), 3: ("data_packs", bytes)}
STATISTICS = {1: ("hole_bytes", int), 2: ("zero_bytes", int), 3: ("unchanged_bytes", int),
              4: ("duplicate_bytes", int), 5: ("new_bytes", int), 6: ("sent_bytes", int),
              7: ("packed_bytes", int)}
ROOT = {1: ("volume_bytes", int), 2: ("chunk_bytes", int), 3: ("sector_bytes", int),
        4: ("created_ms", int), 5: ("parent", bytes), 6: ("height", int), 7: ("top", NODE_REF),
        8: ("statistics", STATISTICS), 9: ("volume_handle", str), 10: ("volume_identity", str)}
COMMIT = {1: ("id", bytes), 2: ("name", str), 3: ("request_name", str), 4: ("volume_handle", str),
          5: ("volume_identity", str), 6: ("roots", [NODE_REF]), 7: ("ref_set", bytes),
          8: ("session", bytes), 9: ("segments", bytes), 10: ("volume_bytes", int),
          11: ("created_ms", int), 12: ("chunk_bytes", int), 13: ("statistics", STATISTICS)}
SEGMENTS = {1: ("added", bytes), 2: ("dropped", bytes)}
DAMAGE = {1: ("packs", bytes)}
LOG_ENTRY = {1: ("previous", bytes), 2: ("nonce", bytes), 3: ("commit", COMMIT),
             4: ("segments", SEGMENTS), 5: ("damage", DAMAGE)}
COMMIT_BLOCK = {1: ("first_name", str), 2: ("record", NODE_REF)}
CHECKPOINT = {1: ("slot", int), 2: ("head_hash", bytes), 3: ("commits", [COMMIT_BLOCK]),
              4: ("segments", [NODE_REF]), 5: ("marked", [NODE_REF]), 6: ("commit_count", int),
              7: ("segment_count", int), 8: ("marked_count", int)}
SLOTTED_COMMIT = {1: ("slot", int), 2: ("commit", COMMIT)}
COMMIT_LIST = {1: ("commits", [SLOTTED_COMMIT])}
REF_SET = {1: ("parent", bytes), 2: ("depth", int), 3: ("added_data", bytes),
           4: ("dropped_data", bytes), 5: ("added_tree", bytes), 6: ("dropped_tree", bytes)}
INDEXED_PACK = {1: ("name", bytes), 2: ("ids", bytes), 3: ("stored_bytes", [int])}
INDEX_SEGMENT = {1: ("packs", [INDEXED_PACK])}


def read_varint(data, at):
    """The number at `at`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        demand(at < len(data), "a message ends inside a number")
        value |= (data[at] & 0x7f) << shift
        at += 1
        if data[at - 1] < 0x80:
            demand(value < 2**64, "a number is over 2^64 - 1")
            return value, at
    demand(False, "a number takes more than 10 bytes")


def read_varints(data):
    values, at = [], 0
    while at < len(data):
        value, at = read_varint(data, at)
        values.append(value)
    return values


def read_text(data, name):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        demand(False, f"{name} is not UTF-8")


def decode(data, message):
    """The fields of a message as attributes; those that are missing have their empty values."""
    found, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        demand(tag & 7 in (0, 2), f"a field has wire type {tag & 7}")
        value, at = read_varint(data, at)
        if tag & 7 == 2:
            demand(at + value <= len(data), "a message ends inside a field")
            value, at = data[at:at + value], at + value
        if tag >> 3 not in message:
            continue
        name, kind = message[tag >> 3]
        demand((tag & 7 == 0) == (kind is int), f"{name} has wire type {tag & 7}")
        if isinstance(kind, list) and kind != [int]:
            found.setdefault(name, []).append(decode(value, kind[0]))
            continue
        demand(name not in found, f"{name} is there twice")
        if isinstance(kind, dict):
            value = decode(value, kind)
        elif kind == [int]:
            value = read_varints(value)
        elif kind is str:
            value = read_text(value, name)
        found[name] = value
    for name, kind in message.values():
        found.setdefault(name, empty(kind))
    return SimpleNamespace(**found)


def empty(kind):
    return [] if isinstance(kind, list) else None if isinstance(kind, dict) else kind()


def varint(value):
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7f | 0x80)
        value >>= 7
    return bytes([*digits, value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def encode(message, **fields):
    """The message as writers write it; fields of message type are given encoded."""
    data = b""
    for number, (name, kind) in sorted(message.items()):
        value = fields.pop(name, None)
        if value is None or not value and not isinstance(kind, dict):
            continue
        if kind is str:
            value = value.encode()
        elif kind == [int]:
            value = b"".join(map(varint, value))
        for each in value if isinstance(value, list) else [value]:
            data += field(number, each)
    assert not fields, f"no such fields: {fields}"
    return data


def items(data, width, what):
    demand(len(data) % width == 0, f"{what} is not a whole number of items")
    return [data[at:at + width] for at in range(0, len(data), width)]


def ascending(values, what):
    demand(all(a < b for a, b in zip(values, values[1:])), f"{what} do not ascend")
    return values
