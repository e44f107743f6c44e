//! Key slots: the keys of an encrypted repository under one passphrase, and `repository`'s own part
//! in it.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use ringback_proto::repository::{About, KeySlot as KeySlotMessage, Keys as KeysMessage};
use zeroize::{Zeroize, Zeroizing};

use super::{
    FormatError,
    domain::KeyEpoch,
    name::{KEYS, ObjectKind, random},
    object::{self, HEADER_BYTES, RepositoryId, header},
};
use crate::crypt::{KEY_BYTES, Key, Keys, Stretched, slot_key};

/// Name of a key slot: 128 random bits, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub(crate) [u8; 16]);

impl SlotId {
    /// A new one.
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// Name of the slot's object.
    pub(crate) fn object(self) -> String {
        format!("{KEYS}{self}")
    }

    /// The slot of this object; `None` when the name is not a slot's.
    pub(crate) fn of_object(object: &str) -> Option<Self> {
        object.strip_prefix(KEYS)?.parse().ok()
    }
}

/// As in the object's name: 32 hexadecimal digits.
impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A text is not the name of a key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no key slot's id; one has 32 hexadecimal digits, as `ringback key list` shows them")]
pub struct NoSlotId;

impl std::str::FromStr for SlotId {
    type Err = NoSlotId;

    fn from_str(text: &str) -> Result<Self, NoSlotId> {
        let mut id = Self([0; 16]);
        hex::decode_to_slice(text, &mut id.0).map_err(|_| NoSlotId)?;
        // Only the canonical form is one of ours.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(NoSlotId)
        }
    }
}

/// A key slot as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct KeySlot {
    id: SlotId,
    repository: RepositoryId,
    wrapped: Bytes,
    about: Bytes,
}

impl KeySlot {
    /// The object `keys/ID` that gives `keys` to who stretches the passphrase to `stretched`.
    pub(crate) fn encode(
        id: SlotId,
        repository: RepositoryId,
        keys: &Keys,
        stretched: &Stretched,
        about: &About,
    ) -> Bytes {
        let associated = associated(id, repository);
        let wrapped = slot_key(stretched, &id.0).seal_once(&associated, keys_message(keys));
        let about = keys
            .about_key(&id.0)
            .seal_once(&associated, about.encode_to_vec());
        let message = KeySlotMessage {
            wrapped: wrapped.into(),
            about: about.into(),
        };
        object::encode_clear(
            ObjectKind::KeySlot,
            KeyEpoch::None,
            repository,
            &id.object(),
            &message,
        )
    }

    /// Reads the object `keys/ID`, whichever repository it belongs to. What is sealed in it stays so.
    pub(crate) fn decode(id: SlotId, object: Bytes) -> Result<Self, FormatError> {
        let (header, message) =
            object::decode_clear::<KeySlotMessage>(ObjectKind::KeySlot, &id.object(), object)?;
        if header.epoch != KeyEpoch::None {
            return Err(FormatError::Misplaced(
                "it says that it is encrypted, which a key slot never is",
            ));
        }
        Ok(Self {
            id,
            repository: header.repository,
            wrapped: message.wrapped,
            about: message.about,
        })
    }

    /// Its name.
    pub(crate) fn id(&self) -> SlotId {
        self.id
    }

    /// The repository that it was made for.
    pub(crate) fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The keys, when the passphrase is this slot's.
    pub(crate) fn open(&self, stretched: &Stretched) -> Option<Keys> {
        let mut text = Zeroizing::new(self.wrapped.to_vec());
        let associated = associated(self.id, self.repository);
        let opened = slot_key(stretched, &self.id.0).open_once(&associated, &mut text);
        read_keys(opened.ok()?)
    }

    /// What people know of it; `None` when it was not made with these keys.
    pub(crate) fn about(&self, keys: &Keys) -> Option<About> {
        let mut text = self.about.to_vec();
        let associated = associated(self.id, self.repository);
        let opened = keys
            .about_key(&self.id.0)
            .open_once(&associated, &mut text)
            .ok()?;
        About::decode(&*opened).ok()
    }
}

/// What both texts of a slot are bound to: its header and its name.
fn associated(id: SlotId, repository: RepositoryId) -> Vec<u8> {
    let header = header(ObjectKind::KeySlot, KeyEpoch::None, repository);
    [&header[..], id.object().as_bytes()].concat()
}

/// The message `Keys`, written by hand: a generated one would leave copies behind. Who seals it
/// overwrites it.
fn keys_message(keys: &Keys) -> Vec<u8> {
    const LENGTH_DELIMITED: u8 = 2;
    let key_bytes = u8::try_from(KEY_BYTES).expect("32");
    // Room for the tag, so that the vector does not move with the keys in it.
    let mut message = Vec::with_capacity(2 * (2 + KEY_BYTES) + crate::crypt::TAG_BYTES);
    for (field, key) in [(1, keys.seal_key()), (2, keys.id_key())] {
        message.extend([field << 3 | LENGTH_DELIMITED, key_bytes]);
        message.extend_from_slice(key.reveal());
    }
    message
}

fn read_keys(message: &[u8]) -> Option<Keys> {
    let message = KeysMessage::decode(message).ok()?;
    let keys = Key::from_slice(&message.seal_key).zip(Key::from_slice(&message.id_key));
    wipe(message.seal_key);
    wipe(message.id_key);
    keys.map(|(seal, id)| Keys::new(seal, id))
}

fn wipe(bytes: Bytes) {
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.as_mut().zeroize();
    }
}

/// What an encrypted repository's `repository` says in `key_check`: over its header and fields 1 to
/// 4 of its message.
pub(crate) fn key_check(
    keys: &Keys,
    repository: RepositoryId,
    message: &ringback_proto::repository::Repository,
) -> [u8; 32] {
    let header: [u8; HEADER_BYTES] = header(ObjectKind::Repository, KeyEpoch::First, repository);
    let without = ringback_proto::repository::Repository {
        key_check: Bytes::new(),
        ..message.clone()
    };
    keys.check(&header, &without.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::object::{CHECK_BYTES, frame};

    const REPOSITORY: RepositoryId = RepositoryId([7; 16]);

    fn made() -> (SlotId, Keys, Stretched, Bytes) {
        let (id, keys, stretched) = (SlotId::random(), Keys::random(), Arc::new(Key::random()));
        let about = About {
            label: "laptop".into(),
            created_ms: 5,
        };
        let object = KeySlot::encode(id, REPOSITORY, &keys, &stretched, &about);
        (id, keys, stretched, object)
    }

    fn same(left: &Keys, right: &Keys) -> bool {
        left.seal_key().reveal() == right.seal_key().reveal()
            && left.id_key().reveal() == right.id_key().reveal()
    }

    #[test]
    fn a_slot_gives_the_keys_to_its_passphrase_and_its_label_to_who_has_the_keys() {
        let (id, keys, stretched, object) = made();
        let slot = KeySlot::decode(id, object).expect("well formed");
        assert!(same(&slot.open(&stretched).expect("opens"), &keys));
        assert_eq!(slot.about(&keys).expect("opens").label, "laptop");
        assert!(slot.open(&Arc::new(Key::random())).is_none());
        assert!(slot.about(&Keys::random()).is_none());
    }

    #[test]
    fn keys_are_written_as_the_generated_message_would() {
        let keys = Keys::random();
        let message = KeysMessage {
            seal_key: Bytes::copy_from_slice(keys.seal_key().reveal()),
            id_key: Bytes::copy_from_slice(keys.id_key().reveal()),
        };
        assert_eq!(keys_message(&keys), message.encode_to_vec());
        assert_eq!(format!("{message:?}"), "Keys(***)");
    }

    #[test]
    fn no_changed_bit_of_a_slot_is_taken_whether_its_check_was_made_right_or_not() {
        let (id, keys, stretched, object) = made();
        for bit in 0..object.len() * 8 {
            let mut changed = object.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = KeySlot::decode(id, changed.clone().into());
            assert!(read.is_err(), "bit {bit}");
            let header = *changed.first_chunk().expect("a header");
            let body = &changed[HEADER_BYTES..object.len() - CHECK_BYTES];
            let forged = frame(header, &id.object(), body);
            let is_check = bit / 8 >= object.len() - CHECK_BYTES;
            if let Ok(slot) = KeySlot::decode(id, forged)
                && !is_check
            {
                let both = slot.open(&stretched).is_some() && slot.about(&keys).is_some();
                assert!(!both, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_slot_under_another_name_opens_for_nobody() {
        let (id, keys, stretched, object) = made();
        let other = SlotId::random();
        assert!(KeySlot::decode(other, object.clone()).is_err());
        let header = *object.first_chunk().expect("a header");
        let body = &object[HEADER_BYTES..object.len() - CHECK_BYTES];
        let moved = frame(header, &other.object(), body);
        let slot = KeySlot::decode(other, moved).expect("well formed");
        assert!(slot.open(&stretched).is_none() && slot.about(&keys).is_none());
        assert_ne!(id, other);
    }

    #[test]
    fn only_the_canonical_name_is_a_slots() {
        let id = SlotId([0xab; 16]);
        assert_eq!(SlotId::of_object(&id.object()), Some(id));
        for odd in ["keys/ab", "keys/", "data/abababababababababababababababab"] {
            assert_eq!(SlotId::of_object(odd), None, "{odd}");
        }
        let upper = format!("keys/{}", id.to_string().to_uppercase());
        assert_eq!(SlotId::of_object(&upper), None);
    }
}
