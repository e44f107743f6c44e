"""A repository: its first object, its keys, and how its objects are read."""

import re

import frame
import messages
from crypt import FIRST_NONCE, KEY_BYTES, TAG_BYTES, Clear, Keys, Sealed, slot_key, stretch, unseal
from messages import decode, encode
from refused import Refused, demand, within

MAX_SLOT_BYTES = 4096
SLOT_NAME = re.compile("keys/[0-9a-f]{32}")


class Repository:
    """Opened: `crypt` opens what is sealed, or passes through what is not."""

    def __init__(self, store, passphrase=None):
        self.store = store
        with within("repository"):
            data = store.read("repository")
            self.header, body = frame.unframe(data, "repository", frame.REPOSITORY, (0, 1))
            message = decode(body, messages.REPOSITORY)
            demand(message.id == self.header.repository, "its ids differ")
            self.chunk_bytes = size = message.chunk_bytes
            demand(65536 <= size <= 4194304 and size & (size - 1) == 0,
                   f"its chunk size is {size}, no power of two from 65536 to 4194304")
            encrypted = self.header.epoch == 1
            demand(encrypted == (message.stretching is not None) == bool(message.key_check),
                   "its key epoch and its fields differ on whether it is encrypted")
            demand(encrypted or passphrase is None, "it is not encrypted, but there is a passphrase")
            demand(not encrypted or passphrase is not None, "it is encrypted: a passphrase is needed")
        self.crypt = Sealed(self.open_keys(message, passphrase)) if encrypted else Clear()

    def open_keys(self, message, passphrase):
        """The keys from the first slot that the passphrase opens."""
        demand(1 <= len(passphrase) <= 1024, "a passphrase takes 1 to 1024 bytes")
        stretched = stretch(passphrase, *stretching_of(message))
        damaged, opened = [], False
        for name in filter(SLOT_NAME.fullmatch, self.store.names("keys/")):
            try:
                with within(name):
                    keys = self.open_slot(name, stretched)
            except Refused as refused:
                damaged.append(str(refused))
                continue
            if keys and keys.check(self.header.to_bytes(), checked_part(message)) == message.key_check:
                return keys
            opened = opened or keys is not None
        demand(not opened, "repository: it was changed, or its keys are another repository's: "
                           "its key check differs")
        demand(not damaged, f"no key slot opens, and some are damaged: {', '.join(damaged)}")
        raise Refused("the passphrase is none of this repository's")

    def open_slot(self, name, stretched):
        """The keys in a slot; none if it has another passphrase, or is another repository's."""
        header, body = self.read_slot(name)
        if header.repository != self.header.repository:
            return None
        slot = decode(body, messages.KEY_SLOT)
        key = slot_key(stretched, bytes.fromhex(name.removeprefix("keys/")))
        associated = header.to_bytes() + name.encode()
        try:
            text = unseal(key, FIRST_NONCE, associated, slot.wrapped, "it")
        except Refused:
            return None
        keys = decode(text, messages.KEYS)
        demand(len(keys.seal_key) == len(keys.id_key) == KEY_BYTES, "a key has not 32 bytes")
        return Keys(keys.seal_key, keys.id_key)

    def read_slot(self, name):
        data = self.store.read(name)
        demand(len(data) <= MAX_SLOT_BYTES, f"it has more than {MAX_SLOT_BYTES} bytes")
        return frame.unframe(data, name, frame.KEYS, (0,))

    def read_object(self, name, kind, message, limit=None):
        """The message in an object, and the object's bytes."""
        with within(name):
            data = self.store.read(name)
            demand(limit is None or len(data) <= limit, f"it has more than {limit} bytes")
            header, body = frame.unframe(data, name, kind, (self.crypt.epoch,),
                                         self.header.repository)
            return decode(self.crypt.body(name, header.to_bytes(), body), message), data

    def check_slots(self):
        """Every slot is whole, and those of this repository say what they are for."""
        for name in filter(SLOT_NAME.fullmatch, self.store.names("keys/")):
            with within(name):
                header, body = self.read_slot(name)
                if header.repository != self.header.repository or not self.crypt.tag_bytes:
                    continue
                slot = decode(body, messages.KEY_SLOT)
                demand(len(slot.wrapped) >= TAG_BYTES, "its keys are too short to be sealed")
                key = self.crypt.keys.about_key(bytes.fromhex(name.removeprefix("keys/")))
                about = unseal(key, FIRST_NONCE, header.to_bytes() + name.encode(), slot.about,
                               "what it is for")
                decode(about, messages.ABOUT)


def stretching_of(message):
    """Salt, memory, iterations and lanes, within their limits."""
    it = message.stretching
    with within("repository"):
        demand(len(message.key_check) == 32, "its key check has not 32 bytes")
        demand(len(it.salt) == 16, "the salt for passphrases has not 16 bytes")
        for name, value, low, high in (("memory_kib", it.memory_kib, 8192, 1048576),
                                       ("iterations", it.iterations, 1, 64),
                                       ("lanes", it.lanes, 1, 16)):
            demand(low <= value <= high, f"{name} is {value}, not from {low} to {high}")
    return it.salt, it.memory_kib, it.iterations, it.lanes


def checked_part(message):
    """The message `Repository` as it is written, without `key_check`."""
    stretching = encode(messages.STRETCHING, **vars(message.stretching))
    return encode(messages.REPOSITORY, id=message.id, chunk_bytes=message.chunk_bytes,
                  created_ms=message.created_ms, stretching=stretching)
