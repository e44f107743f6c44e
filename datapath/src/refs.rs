//! Ref sets: which packs a backup needs, for whoever must know what not to delete.

use std::collections::BTreeSet;

use bytes::Bytes;
use ringback_proto::repository::RefSet;

use crate::{
    error::Error,
    format::{
        FormatError,
        name::{ObjectKind, PackName, join_names, pack_table, random, ref_set_object},
    },
    repository::Repository,
    store::Payload,
};

/// A set at this depth is followed by a full one, so that reading one takes at most 64 requests.
const DEPTH_MAX: u32 = 63;

/// The packs of one backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packs {
    /// Packs of chunks.
    pub data: BTreeSet<PackName>,
    /// Packs of tree nodes.
    pub tree: BTreeSet<PackName>,
}

/// A stored set.
pub struct StoredSet {
    id: Bytes,
    depth: u32,
    packs: Packs,
}

impl StoredSet {
    /// Reads the set `id` and those below it.
    pub async fn fetch(repository: &Repository, id: &Bytes) -> Result<Self, Error> {
        let mut chain = Vec::new();
        let mut next = id.clone();
        // A set without a parent ends the chain; a backup without a set is damaged.
        while chain.is_empty() || !next.is_empty() {
            let object = object_of(repository, &next)?;
            let set: RefSet = repository
                .fetch(
                    ObjectKind::RefSet,
                    &object,
                    "a backup names this set of packs",
                )
                .await?;
            next = set.parent.clone();
            chain.push((object, set));
            if chain.len() > DEPTH_MAX as usize + 1 {
                let endless = FormatError::Damaged("its chain of parents is too long");
                return Err(repository.refuse(&object_of(repository, id)?, endless));
            }
        }
        let depth = chain.first().map_or(0, |(_, set)| set.depth);
        let mut packs = Packs::default();
        for (object, set) in chain.iter().rev() {
            packs
                .apply(set)
                .map_err(|source| repository.refuse(object, source))?;
        }
        Ok(Self {
            id: id.clone(),
            depth,
            packs,
        })
    }

    /// The packs in it.
    pub fn packs(&self) -> &Packs {
        &self.packs
    }
}

/// Stores a set as what it changes of `parent`, or whole; its id.
pub async fn store(
    repository: &Repository,
    packs: &Packs,
    parent: Option<&StoredSet>,
) -> Result<Bytes, Error> {
    let set = match parent.filter(|parent| parent.depth < DEPTH_MAX) {
        Some(parent) => packs.changes_of(parent),
        None => packs.whole(),
    };
    let id = random::<16>();
    let object = ref_set_object(&id);
    let bytes = repository.encode(ObjectKind::RefSet, &object, &set);
    repository
        .store()
        .put(&object, Payload::from(bytes))
        .await?;
    Ok(Bytes::copy_from_slice(&id))
}

fn object_of(repository: &Repository, id: &Bytes) -> Result<String, Error> {
    let id: &[u8; 16] = id[..].try_into().map_err(|_| {
        repository.refuse(
            "refs/",
            FormatError::Damaged("the id of a set is not 16 bytes"),
        )
    })?;
    Ok(ref_set_object(id))
}

impl Packs {
    pub(crate) fn apply(&mut self, set: &RefSet) -> Result<(), FormatError> {
        apply(&mut self.data, &set.added_data, &set.dropped_data)?;
        apply(&mut self.tree, &set.added_tree, &set.dropped_tree)
    }

    pub(crate) fn whole(&self) -> RefSet {
        RefSet {
            added_data: join_names(&self.data),
            added_tree: join_names(&self.tree),
            ..RefSet::default()
        }
    }

    fn changes_of(&self, parent: &StoredSet) -> RefSet {
        RefSet {
            parent: parent.id.clone(),
            depth: parent.depth + 1,
            added_data: join_names(self.data.difference(&parent.packs.data)),
            dropped_data: join_names(parent.packs.data.difference(&self.data)),
            added_tree: join_names(self.tree.difference(&parent.packs.tree)),
            dropped_tree: join_names(parent.packs.tree.difference(&self.tree)),
        }
    }
}

fn apply(set: &mut BTreeSet<PackName>, added: &[u8], dropped: &[u8]) -> Result<(), FormatError> {
    for name in pack_table(dropped)? {
        if !set.remove(&name) {
            return Err(FormatError::Damaged(
                "it drops a pack that its parent does not have",
            ));
        }
    }
    set.extend(pack_table(added)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::name::SessionId;

    fn packs(numbers: &BTreeSet<u8>) -> Packs {
        let name = |number: &u8| {
            let mut bytes = [0; 24];
            bytes[..8].copy_from_slice(&SessionId([*number; 8]).0);
            PackName::from_slice(&bytes).expect("24 bytes")
        };
        Packs {
            data: numbers.iter().map(name).collect(),
            tree: numbers.iter().filter(|n| *n % 3 == 0).map(name).collect(),
        }
    }

    proptest! {
        #[test]
        fn a_set_and_its_changes_give_the_next_set(
            before: BTreeSet<u8>,
            after: BTreeSet<u8>,
        ) {
            let parent = StoredSet {
                id: Bytes::from_static(&[1; 16]),
                depth: 5,
                packs: packs(&before),
            };
            let wanted = packs(&after);
            let mut found = parent.packs.clone();
            found.apply(&wanted.changes_of(&parent)).expect("well formed");
            prop_assert_eq!(&found, &wanted);
            let mut whole = Packs::default();
            whole.apply(&wanted.whole()).expect("well formed");
            prop_assert_eq!(whole, wanted);
        }
    }
}
