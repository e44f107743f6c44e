"""Keys, and opening and sealing under them (docs/formats/encryption.md).

`Clear` and `Sealed` answer the same questions for repositories that are not and that are encrypted.
"""

import functools
import struct
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from refused import demand

KEY_BYTES, SALT_BYTES, TAG_BYTES = 32, 32, 16
CONTEXT = b"ringback repository format 1: "
FIRST_NONCE = bytes(12)
FOOTER_ORDINAL = 2**32 - 1


def derive(key, salt, info):
    return HKDF(hashes.SHA256(), KEY_BYTES, salt or None, CONTEXT + info).derive(key)


@functools.lru_cache
def stretch(passphrase, salt, memory_kib, iterations, lanes):
    """Slow by intention; the cache is for those who open one repository many times."""
    stretching = Argon2id(salt=salt, length=KEY_BYTES, iterations=iterations, lanes=lanes,
                          memory_cost=memory_kib)
    return stretching.derive(passphrase)


def seal(key, nonce, associated, text):
    return AESGCM(key).encrypt(nonce, text, associated)


def unseal(key, nonce, associated, sealed, what):
    demand(len(sealed) >= TAG_BYTES, f"{what} is too short to be sealed")
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        demand(False, f"{what} does not open: its tag differs")


def slot_key(stretched, slot_id):
    return derive(stretched, slot_id, b"key slot")


def nonce_of(ordinal):
    return struct.pack("<I8x", ordinal)


class Keys(NamedTuple):
    seal_key: bytes
    id_key: bytes

    def check(self, header, message):
        """`key_check` of a repository: its header, and its message without that field."""
        key = derive(self.seal_key + self.id_key, b"", b"key check")
        return blake3(header + message, key=key).digest()

    def about_key(self, slot_id):
        return derive(self.seal_key, slot_id, b"about key")

    def object_key(self, salt, name):
        return derive(self.seal_key, salt, b"object key" + name.encode())

    def pack_key(self, name):
        return derive(self.seal_key, b"", b"pack key" + name.encode())


class Clear:
    epoch = 0
    tag_bytes = 0

    def id_of(self, data):
        return blake3(data).digest()

    def body(self, name, header, body):
        return body

    def footer(self, pack, header, footer):
        return footer

    def node(self, pack, ordinal, node_id, record):
        return record

    def chunk(self, pack, ordinal, chunk_id, record):
        """Codec and payload."""
        return record[0], record[1:]


class Sealed:
    epoch = 1
    tag_bytes = TAG_BYTES

    def __init__(self, keys):
        self.keys = keys

    def id_of(self, data):
        return blake3(data, key=self.keys.id_key).digest()

    def body(self, name, header, body):
        demand(len(body) >= SALT_BYTES + TAG_BYTES, "it is too short to be sealed")
        salt, sealed = body[:SALT_BYTES], body[SALT_BYTES:]
        return unseal(self.keys.object_key(salt, name), FIRST_NONCE, header, sealed, "it")

    def record(self, pack, ordinal, associated, sealed, what):
        return unseal(self.keys.pack_key(pack), nonce_of(ordinal), associated, sealed, what)

    def footer(self, pack, header, footer):
        return self.record(pack, FOOTER_ORDINAL, header, footer, "its footer")

    def node(self, pack, ordinal, node_id, record):
        return self.record(pack, ordinal, node_id, record, f"record {ordinal}")

    def chunk(self, pack, ordinal, chunk_id, record):
        """Codec and payload."""
        text = self.record(pack, ordinal, chunk_id, record, f"record {ordinal}")
        demand(text, f"record {ordinal} has no codec")
        return text[-1], text[:-1]
