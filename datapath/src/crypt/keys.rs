//! The two keys of an encrypted repository, and those that follow from them.

use std::fmt;

use super::{
    Key, Stretched,
    seal::{NONCE_BYTES, SealKey, TAG_BYTES, TagMismatch, derive},
};

/// Bytes of the salt in a sealed object.
pub(crate) const SALT_BYTES: usize = 32;

/// What keys are derived for.
const KEY_SLOT: &[u8] = b"ringback repository format 1: key slot";
const ABOUT: &[u8] = b"ringback repository format 1: about key";
const KEY_CHECK: &[u8] = b"ringback repository format 1: key check";
const OBJECT: &[u8] = b"ringback repository format 1: object key";
const PACK: &[u8] = b"ringback repository format 1: pack key";

/// Number of the footer among what is sealed in a pack: no record has it, for a pack is smaller
/// than 4 GiB.
const FOOTER: u32 = u32::MAX;

/// The keys of an encrypted repository. They are wiped when they are dropped and do not print.
pub struct Keys {
    seal: Key,
    id: Key,
}

/// The key that a passphrase gives for a key slot.
pub(crate) fn slot_key(stretched: &Stretched, slot: &[u8; 16]) -> SealKey {
    SealKey::new(&derive(stretched.reveal(), slot, &[KEY_SLOT]))
}

impl Keys {
    /// New ones.
    pub fn random() -> Self {
        Self::new(Key::random(), Key::random())
    }

    /// The seal key and the id key.
    pub(crate) fn new(seal: Key, id: Key) -> Self {
        Self { seal, id }
    }

    /// For the key slots alone.
    pub(crate) fn seal_key(&self) -> &Key {
        &self.seal
    }

    /// For ids, and for the key slots.
    pub(crate) fn id_key(&self) -> &Key {
        &self.id
    }

    /// What ties these keys to a repository: over header and message of its object `repository`.
    pub(crate) fn check(&self, header: &[u8], message: &[u8]) -> [u8; 32] {
        let mut both = zeroize::Zeroizing::new([0; 64]);
        both[..32].copy_from_slice(self.seal.reveal());
        both[32..].copy_from_slice(self.id.reveal());
        let key = derive(&both[..], &[], &[KEY_CHECK]);
        let mut hasher = blake3::Hasher::new_keyed(key.reveal());
        hasher.update(header);
        hasher.update(message);
        *hasher.finalize().as_bytes()
    }

    /// Seals what people know of a key slot.
    pub(crate) fn about_key(&self, slot: &[u8; 16]) -> SealKey {
        SealKey::new(&derive(self.seal.reveal(), slot, &[ABOUT]))
    }

    /// Seals one content of the object of this name.
    pub(crate) fn object_key(&self, salt: &[u8; SALT_BYTES], object: &str) -> SealKey {
        let info = [OBJECT, object.as_bytes()];
        SealKey::new(&derive(self.seal.reveal(), salt, &info))
    }

    /// Seals what is in the pack of this object's name.
    pub fn pack_key(&self, object: &str) -> PackKey {
        let info = [PACK, object.as_bytes()];
        PackKey(SealKey::new(&derive(self.seal.reveal(), &[], &info)))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Seals the records and the footer of one pack.
#[derive(Debug)]
pub struct PackKey(SealKey);

impl PackKey {
    /// Seals a record in place, `rest` as if it stood behind it; what comes behind it.
    pub fn seal_record(
        &self,
        ordinal: u32,
        id: &[u8; 32],
        record: &mut [u8],
        rest: &[u8],
    ) -> Vec<u8> {
        assert!(ordinal != FOOTER, "a pack has fewer records than bytes");
        self.0.seal(nonce(ordinal), id, record, rest)
    }

    /// Opens a record in place.
    pub fn open_record<'a>(
        &self,
        ordinal: u32,
        id: &[u8; 32],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], TagMismatch> {
        if ordinal == FOOTER {
            return Err(TagMismatch);
        }
        self.0.open(nonce(ordinal), id, sealed)
    }

    /// Seals the footer.
    pub(crate) fn seal_footer(&self, header: &[u8], mut footer: Vec<u8>) -> Vec<u8> {
        footer.reserve_exact(TAG_BYTES);
        let tag = self.0.seal(nonce(FOOTER), header, &mut footer, &[]);
        footer.extend_from_slice(&tag);
        footer
    }

    /// Opens the footer in place.
    pub(crate) fn open_footer<'a>(
        &self,
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], TagMismatch> {
        self.0.open(nonce(FOOTER), header, sealed)
    }
}

fn nonce(number: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_purposes_names_or_salts_give_one_key() {
        let keys = Keys::random();
        let (salt, other) = ([1; 32], [2; 32]);
        let sealed = [
            keys.object_key(&salt, "log/1"),
            keys.object_key(&other, "log/1"),
            keys.object_key(&salt, "log/2"),
            keys.about_key(&[1; 16]),
            keys.about_key(&[2; 16]),
            keys.pack_key("log/1").0,
            keys.pack_key("data/1").0,
        ]
        .map(|key| key.seal_once(b"", b"text".to_vec()));
        for (at, text) in sealed.iter().enumerate() {
            assert!(!sealed[..at].contains(text), "{at}");
        }
    }

    #[test]
    fn a_record_opens_in_its_own_place_alone() {
        let keys = Keys::random();
        let key = keys.pack_key("data/a");
        let mut record = b"record".to_vec();
        let behind = key.seal_record(3, &[7; 32], &mut record, &[1]);
        assert_eq!(behind.len(), 1 + TAG_BYTES);
        record.extend(behind);
        let open = |key: &PackKey, ordinal, id| {
            let mut sealed = record.clone();
            key.open_record(ordinal, id, &mut sealed)
                .map(|text| text.to_vec())
        };
        assert_eq!(open(&key, 3, &[7; 32]), Ok(b"record\x01".to_vec()));
        assert!(open(&key, 4, &[7; 32]).is_err(), "another ordinal");
        assert!(open(&key, 3, &[8; 32]).is_err(), "another id");
        assert!(open(&keys.pack_key("data/b"), 3, &[7; 32]).is_err());
        assert!(open(&Keys::random().pack_key("data/a"), 3, &[7; 32]).is_err());
        assert!(open(&key, u32::MAX, &[7; 32]).is_err(), "the footer's");
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let opened = key.open_record(3, &[7; 32], &mut flipped);
            assert!(opened.is_err(), "bit {bit}");
        }
        for len in 0..record.len() {
            let mut cut = record[..len].to_vec();
            let opened = key.open_record(3, &[7; 32], &mut cut);
            assert!(opened.is_err(), "cut at {len}");
        }
    }

    #[test]
    fn keys_do_not_print() {
        let keys = Keys::new(
            Key::from_slice(&[0x41; 32]).expect("32 bytes"),
            Key::from_slice(&[0x42; 32]).expect("32 bytes"),
        );
        let (seal, pack) = (keys.seal_key(), keys.pack_key("data/1"));
        let shown = format!("{keys:?} {seal:?} {pack:?}");
        assert_eq!(shown, "*** *** PackKey(***)");
    }
}
