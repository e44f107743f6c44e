//! AES-256-GCM and HKDF-SHA256, from aws-lc-rs.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};

use super::{KEY_BYTES, Key};

/// Bytes by which what is sealed is longer than its text.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
/// For keys that seal one text only.
pub(super) const ZERO_NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

/// HKDF-SHA256: the key that follows from `key`, `salt` (empty: none) and what it is for, whose
/// pieces are joined. Pieces that vary in length must be the last.
pub(super) fn derive(key: &[u8], salt: &[u8], info: &[&[u8]]) -> Key {
    struct KeyLength;
    impl KeyType for KeyLength {
        fn len(&self) -> usize {
            KEY_BYTES
        }
    }
    Key::filled_by(|derived| {
        let extracted = Salt::new(HKDF_SHA256, salt).extract(key);
        let expanded = extracted.expand(info, KeyLength);
        expanded
            .and_then(|expanded| expanded.fill(derived))
            .expect("32 bytes are not too many");
    })
}

/// A key that seals. It is wiped when it is dropped.
pub(crate) struct SealKey {
    key: LessSafeKey,
    #[cfg(test)]
    fingerprint: [u8; 32],
}

/// What was opened is not what was sealed with this key, nonce and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagMismatch;

impl SealKey {
    pub(super) fn new(key: &Key) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, key.reveal());
        Self {
            key: LessSafeKey::new(unbound.expect("the key has the algorithm's length")),
            #[cfg(test)]
            fingerprint: *blake3::hash(key.reveal()).as_bytes(),
        }
    }

    /// Seals `text` in place, with `rest` as if it stood behind it; what comes behind the sealed
    /// text: the sealed rest and the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text: &mut [u8],
        rest: &[u8],
    ) -> Vec<u8> {
        #[cfg(test)]
        journal::note(self.fingerprint, nonce, &[associated, text, rest]);
        let mut behind = vec![0; rest.len() + TAG_BYTES];
        self.key
            .seal_in_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated),
                text,
                rest,
                &mut behind,
            )
            .expect("a text is far below 64 GiB");
        behind
    }

    /// Opens in place; the text. On a mismatch nothing of what is in the buffer may be used.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], TagMismatch> {
        self.key
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated),
                sealed,
            )
            .map_err(|_| TagMismatch)
    }

    /// Seals the one text that this key ever seals.
    pub(crate) fn seal_once(&self, associated: &[u8], mut text: Vec<u8>) -> Vec<u8> {
        let tag = self.seal(ZERO_NONCE, associated, &mut text, &[]);
        text.extend_from_slice(&tag);
        text
    }

    /// Opens what [`Self::seal_once`] sealed.
    pub(crate) fn open_once<'a>(
        &self,
        associated: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], TagMismatch> {
        self.open(ZERO_NONCE, associated, sealed)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Every sealing of a test process. A nonce that seals a second text under its key ends the test.
#[cfg(test)]
pub(crate) mod journal {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError},
    };

    use super::NONCE_BYTES;

    type Sealings = HashMap<([u8; 32], [u8; NONCE_BYTES]), [u8; 32]>;

    static SEALINGS: Mutex<Option<Sealings>> = Mutex::new(None);

    /// Notes what is sealed.
    ///
    /// # Panics
    /// When the key has sealed something else under this nonce.
    pub(super) fn note(key: [u8; 32], nonce: [u8; NONCE_BYTES], pieces: &[&[u8]]) {
        let mut hasher = blake3::Hasher::new();
        for piece in pieces {
            hasher.update(&(piece.len() as u64).to_le_bytes());
            hasher.update(piece);
        }
        let text = *hasher.finalize().as_bytes();
        let mut sealings = SEALINGS.lock().unwrap_or_else(PoisonError::into_inner);
        let sealings = sealings.get_or_insert_with(Sealings::new);
        let before = *sealings.entry((key, nonce)).or_insert(text);
        assert!(before == text, "a nonce seals a second text under one key");
    }

    /// How many pairs of key and nonce have sealed in this process.
    pub(crate) fn len() -> usize {
        let sealings = SEALINGS.lock().unwrap_or_else(PoisonError::into_inner);
        sealings.as_ref().map_or(0, HashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, appendix A.1 and A.3, cut to 32 bytes.
    #[test]
    fn keys_are_derived_as_rfc_5869_says() {
        let secret = [0x0b; 22];
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let derived = derive(&secret, &salt, &[&info[..4], &info[4..]]);
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf";
        assert_eq!(hex::encode(derived.reveal()), expected);
        let without = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        for salt in [&[][..], &[0; 32]] {
            let derived = derive(&secret, salt, &[]);
            assert_eq!(hex::encode(derived.reveal()), without);
        }
    }

    /// Test case 16 of "The Galois/Counter Mode of Operation (GCM)", the one with associated data.
    #[test]
    fn texts_are_sealed_as_gcm_has_it_wherever_the_rest_is_cut() {
        let unhex = |text: &str| hex::decode(text).expect("hexadecimal");
        let key = unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let key = SealKey::new(&Key::from_slice(&key).expect("32 bytes"));
        let nonce = [
            0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88,
        ];
        let text = unhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let associated = unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let sealed = unhex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
             76fc6ece0f4e1768cddf8853bb2d551b",
        );
        // The pieces are one text to the cipher, not to the journal: it is asked past it.
        for cut in [0, 1, 15, 16, 59, 60] {
            let mut text = text.clone();
            let rest = text.split_off(cut);
            let mut behind = vec![0; rest.len() + TAG_BYTES];
            let nonce = Nonce::assume_unique_for_key(nonce);
            key.key
                .seal_in_place_scatter(nonce, Aad::from(&associated), &mut text, &rest, &mut behind)
                .expect("sealed");
            text.extend(behind);
            assert_eq!(text, sealed, "{cut}");
        }
        let mut again = text.clone();
        let tag = key.seal(nonce, &associated, &mut again, &[]);
        again.extend(tag);
        assert_eq!(again, sealed);
        let opened = key.open(nonce, &associated, &mut again).expect("opens");
        assert_eq!(opened, &text[..]);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(nonce, &associated, &mut flipped).is_err(), "{bit}");
        }
        assert!(key.open(nonce, b"other", &mut sealed.clone()).is_err());
        assert!(key.open(nonce, &associated, &mut [0; 15]).is_err());
    }

    #[test]
    fn a_nonce_that_seals_twice_is_noticed() {
        let key = SealKey::new(&Key::random());
        key.seal_once(b"", b"one".to_vec());
        key.seal_once(b"", b"one".to_vec());
        let second = std::panic::catch_unwind(|| key.seal_once(b"", b"two".to_vec()));
        assert!(second.is_err());
    }
}
