"""Known answers for each primitive: inputs and outputs in hexadecimal, for tests/vectors.

`for` says what of docs/formats the case is an example of. BLAKE3 is computed twice, by the package
and by hand.
"""

import struct

from blake3 import blake3

import blake3_by_hand
import frame
from crypt import (CONTEXT, FIRST_NONCE, FOOTER_ORDINAL, Keys, derive, nonce_of, seal, slot_key,
                   stretch)
from scenario import PASSPHRASES, shake
from writer import SESSION_CONTEXT, session_id

PACK = "data/0123456789abcdef/00000000-00112233445566778899aabb"
ENTRY = "log/0000000000000001"


def some(what, length):
    return shake(f"ringback primitives: {what}", length)


KEYS = Keys(some("seal key", 32), some("id key", 32))
REPOSITORY = some("repository", 16)
SLOT_ID, OBJECT_SALT = some("slot", 16), some("object salt", 32)
PASSPHRASE_SALT = some("passphrase salt", 16)


def argon2id():
    cases = [(PASSPHRASES["everyday"], 65536, 3, 4), (PASSPHRASES["the safe"], 8192, 2, 2),
             ("x", 8192, 1, 1), ("x" * 1024, 8192, 1, 16)]
    return [{"passphrase": text.encode(), "salt": PASSPHRASE_SALT, "memory_kib": memory_kib,
             "iterations": iterations, "lanes": lanes,
             "output": stretch(text.encode(), PASSPHRASE_SALT, memory_kib, iterations, lanes)}
            for text, memory_kib, iterations, lanes in cases]


def hkdf():
    stretched = some("stretched", 32)
    both = KEYS.seal_key + KEYS.id_key
    cases = [("slot key", stretched, SLOT_ID, b"key slot"),
             ("about key", KEYS.seal_key, SLOT_ID, b"about key"),
             ("object key", KEYS.seal_key, OBJECT_SALT, b"object key" + ENTRY.encode()),
             ("pack key", KEYS.seal_key, b"", b"pack key" + PACK.encode()),
             ("key check", both, b"", b"key check")]
    return [{"for": use, "key": key, "salt": salt, "info": CONTEXT + info,
             "output": derive(key, salt, info)} for use, key, salt, info in cases]


def header(kind, epoch):
    return frame.Header(kind, epoch, REPOSITORY).to_bytes()


def aes_256_gcm():
    slot_name = f"keys/{SLOT_ID.hex()}"
    slot = header(frame.KEYS, 0) + slot_name.encode()
    chunk_id, pack_key = some("chunk id", 32), KEYS.pack_key(PACK)
    cases = [("keys in a slot", slot_key(some("stretched", 32), SLOT_ID), FIRST_NONCE, slot,
              b"\x0a\x20" + KEYS.seal_key + b"\x12\x20" + KEYS.id_key),
             ("about a slot", KEYS.about_key(SLOT_ID), FIRST_NONCE, slot, b"\x0a\x05label"),
             ("message of an object", KEYS.object_key(OBJECT_SALT, ENTRY), FIRST_NONCE,
              header(frame.LOG, 1), b"\x12\x10" + some("nonce", 16)),
             ("chunk in record 0", pack_key, nonce_of(0), chunk_id, some("payload", 100) + b"\0"),
             ("chunk in record 258", pack_key, nonce_of(258), chunk_id, b"\x00" * 64 + b"\x02"),
             ("footer", pack_key, nonce_of(FOOTER_ORDINAL), header(frame.DATA_PACK, 1), b""),
             ("node in record 1", KEYS.pack_key(PACK.replace("data", "tree")), nonce_of(1),
              some("node id", 32), some("node", 117))]
    return [{"for": use, "key": key, "nonce": nonce, "associated": associated, "text": text,
             "sealed": seal(key, nonce, associated, text)}
            for use, key, nonce, associated, text in cases]


def hashed(use, data, key=None, context=None, output_bytes=32):
    by_hand = blake3_by_hand.digest(data, key, context)
    modes = {"key": key, "derive_key_context": context}
    by_package = blake3(data, **{name: it for name, it in modes.items() if it}).digest()
    assert by_hand == by_package, use
    modes = {"key": key, "context": context}
    return {"for": use, "input": data, **{name: it for name, it in modes.items() if it},
            "output": by_hand[:output_bytes]}


def blake3_cases():
    length = struct.pack("<Q", len(ENTRY))
    body = some("body", 50)
    check_key = derive(KEYS.seal_key + KEYS.id_key, b"", b"key check")
    repository = header(frame.REPOSITORY, 1) + some("message", 40)
    session = KEYS.id_key + REPOSITORY + bytes(4) + struct.pack("<Q", 16) + some("commit", 16)
    assert session_id(REPOSITORY, "volume", 0, some("commit", 16), KEYS.id_key) == hashed(
        "", session + b"volume", context=SESSION_CONTEXT)["output"][:8]
    lengths = (1, 64, 65, 1024, 1025, 3073)
    cases = [hashed(f"id of {n} bytes", some("chunk", n)) for n in lengths]
    cases += [hashed(f"id of {n} bytes, encrypted", some("chunk", n), key=KEYS.id_key)
              for n in lengths]
    return cases + [
        hashed("check of an object", header(frame.LOG, 0) + length + ENTRY.encode() + body),
        hashed("key check", repository, key=check_key),
        hashed("session id", session[32:] + b"volume", context=SESSION_CONTEXT, output_bytes=8),
        hashed("session id, encrypted", session + b"volume", context=SESSION_CONTEXT,
               output_bytes=8)]


def known_answers():
    primitives = {"argon2id": argon2id(), "hkdf_sha256": hkdf(), "aes_256_gcm": aes_256_gcm(),
                  "blake3": blake3_cases()}
    for case in (case for cases in primitives.values() for case in cases):
        case |= {name: it.hex() for name, it in case.items() if isinstance(it, bytes)}
    return primitives
