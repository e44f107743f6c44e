//! Names of the objects of a repository.

use std::fmt;

use super::{FormatError, domain::Domain};

/// What kind of object a name or a header stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// `repository`.
    Repository = 1,
    /// `keys/ID`: the keys of an encrypted repository, under one passphrase.
    KeySlot = 2,
    /// `data/SESSION/SEQUENCE-RANDOM`: a pack of chunks.
    DataPack = 3,
    /// `tree/SESSION/SEQUENCE-RANDOM`: a pack of tree nodes and roots.
    TreePack = 4,
    /// `index/SESSION/SEQUENCE-RANDOM`: an index segment.
    IndexSegment = 5,
    /// `refs/ID`.
    RefSet = 6,
    /// `log/SLOT`.
    LogEntry = 7,
    /// `checkpoint/SLOT`: what the log says up to a slot.
    Checkpoint = 8,
}

/// Name of the write-once object that makes a prefix a repository.
pub const REPOSITORY: &str = "repository";
/// Below it lie the key slots.
pub const KEYS: &str = "keys/";
/// Below it lie the log's entries.
pub const LOG: &str = "log/";
/// Below it lie the log's checkpoints.
pub const CHECKPOINT: &str = "checkpoint/";

/// What a session's id is derived with.
const SESSION_CONTEXT: &str = "ringback repository format 1: session id";

/// 64 bits: the objects of one run of a writer. Not always unique: only names of objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 8]);

/// Bytes of a [`PackName`] as it is stored.
pub const PACK_NAME_BYTES: usize = 24;

/// Name of a pack or an index segment: session, sequence number in it, and random bits, so that
/// a name is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName([u8; PACK_NAME_BYTES]);

impl SessionId {
    /// A new one.
    pub fn random() -> Self {
        Self(random())
    }

    /// The session of a backup's `run`th run: the volume's first since the commit `parent` (empty:
    /// since ever) is run 0. Whoever tries the same again finds what the runs before left.
    pub fn of(domain: &Domain, volume_identity: &str, parent: &[u8], run: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SESSION_CONTEXT);
        // Without the key, names of packs would tell who knows it of a volume's identity.
        if let Some(keys) = &domain.keys {
            hasher.update(keys.id_key().reveal());
        }
        hasher.update(&domain.id.0);
        hasher.update(&run.to_le_bytes());
        hasher.update(&(parent.len() as u64).to_le_bytes());
        hasher.update(parent);
        hasher.update(volume_identity.as_bytes());
        Self(
            *hasher
                .finalize()
                .as_bytes()
                .first_chunk()
                .expect("32 bytes"),
        )
    }

    /// Where its objects of this kind lie.
    pub fn folder(self, kind: ObjectKind) -> String {
        format!("{}/{}/", folder_of(kind), hex::encode(self.0))
    }
}

impl PackName {
    /// A new name in `session`.
    pub fn random(session: SessionId, sequence: u32) -> Self {
        let mut bytes = [0; PACK_NAME_BYTES];
        bytes[..8].copy_from_slice(&session.0);
        bytes[8..12].copy_from_slice(&sequence.to_be_bytes());
        bytes[12..].copy_from_slice(&random::<12>());
        Self(bytes)
    }

    /// Reads a stored name.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, FormatError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| FormatError::Damaged("a pack's name is not 24 bytes"))
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8; PACK_NAME_BYTES] {
        &self.0
    }

    /// The object's name in the repository, below the folder of its kind.
    pub fn object(&self, kind: ObjectKind) -> String {
        format!(
            "{}/{}/{}-{}",
            folder_of(kind),
            hex::encode(&self.0[..8]),
            hex::encode(&self.0[8..12]),
            hex::encode(&self.0[12..]),
        )
    }

    /// The pack or segment that an object's name stands for.
    pub fn parse(kind: ObjectKind, object: &str) -> Option<Self> {
        let (folder, rest) = object.split_once('/')?;
        let (session, rest) = rest.split_once('/')?;
        let (sequence, random) = rest.split_once('-')?;
        let mut name = Self([0; PACK_NAME_BYTES]);
        for (digits, range) in [
            (session, 0..8),
            (sequence, 8..12),
            (random, 12..PACK_NAME_BYTES),
        ] {
            hex::decode_to_slice(digits, &mut name.0[range]).ok()?;
        }
        // Only the canonical form is one of ours.
        (folder == folder_of(kind) && name.object(kind) == object).then_some(name)
    }
}

fn folder_of(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::DataPack => "data",
        ObjectKind::TreePack => "tree",
        ObjectKind::IndexSegment => "index",
        ObjectKind::Repository
        | ObjectKind::KeySlot
        | ObjectKind::RefSet
        | ObjectKind::LogEntry
        | ObjectKind::Checkpoint => {
            unreachable!("only packs and segments have such names")
        }
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Cuts a table of names into its items.
pub(crate) fn pack_table(bytes: &[u8]) -> Result<Vec<PackName>, FormatError> {
    let (names, rest) = bytes.as_chunks::<PACK_NAME_BYTES>();
    if !rest.is_empty() {
        return Err(FormatError::Damaged("a table of names ends inside a name"));
    }
    Ok(names.iter().copied().map(PackName).collect())
}

/// Joins names into a table.
pub(crate) fn join_names<'a>(names: impl IntoIterator<Item = &'a PackName>) -> bytes::Bytes {
    let table: Vec<u8> = names.into_iter().flat_map(|name| name.0).collect();
    table.into()
}

/// Name of a ref set.
pub fn ref_set_object(id: &[u8; 16]) -> String {
    format!("refs/{}", hex::encode(id))
}

/// The highest slot.
const SLOT_MAX: u64 = u64::MAX / 2;

/// A position in the log; the first entry lies in slot 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl Slot {
    /// Name of the entry's object. Sixteen digits, so that names sort as slots do.
    pub fn object(self) -> String {
        format!("{LOG}{:016x}", self.0)
    }

    /// Name of the object that sums the log up to here.
    pub fn checkpoint(self) -> String {
        format!("{CHECKPOINT}{:016x}", self.0)
    }

    /// The one behind it.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The slot that the rest of an object's name below [`LOG`] or [`CHECKPOINT`] stands for. Higher
    /// numbers are none, so that there is a slot behind each, whoever has made it up.
    pub fn parse(digits: &str) -> Option<Self> {
        let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let canonical = digits.len() == 16 && digits.bytes().all(is_digit);
        let slot = canonical
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten();
        slot.filter(|slot| *slot <= SLOT_MAX).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random bytes from the system.
///
/// # Panics
/// When the system has none to give; Linux always has once it is up.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_name_survives_its_stored_form_and_sorts_by_sequence() {
        let session = SessionId([0xab; 8]);
        let (first, second) = (PackName::random(session, 1), PackName::random(session, 2));
        assert!(first < second);
        assert_eq!(PackName::from_slice(first.as_bytes()), Ok(first));
        let object = first.object(ObjectKind::DataPack);
        assert!(
            object.starts_with("data/abababababababab/00000001-"),
            "{object}"
        );
        assert_eq!(object.len(), "data/".len() + 16 + 1 + 8 + 1 + 24);
        assert!(object.starts_with(&session.folder(ObjectKind::DataPack)));
        assert_eq!(PackName::parse(ObjectKind::DataPack, &object), Some(first));
        for odd in [
            &object.to_uppercase(),
            &object[..object.len() - 2],
            "data/ab",
        ] {
            assert_eq!(PackName::parse(ObjectKind::DataPack, odd), None, "{odd}");
        }
        assert_eq!(PackName::parse(ObjectKind::TreePack, &object), None);
        assert!(PackName::from_slice(&[0; 23]).is_err());
    }

    #[test]
    fn slots_sort_as_their_names_do_and_only_canonical_names_are_slots() {
        assert!(Slot(9).object() < Slot(10).object());
        assert!(Slot(15).object() < Slot(16).object());
        assert_eq!(Slot::parse("00000000000000ff"), Some(Slot(255)));
        for odd in [
            "ff",
            "00000000000000FF",
            "+0000000000000ff",
            "000000000000000g",
            "8000000000000000",
            "ffffffffffffffff",
        ] {
            assert_eq!(Slot::parse(odd), None, "{odd}");
        }
    }
}
