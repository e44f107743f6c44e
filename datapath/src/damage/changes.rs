//! What may happen to objects.

use std::{collections::BTreeSet, fmt, ops::Range};

use bytes::Bytes;

use super::beds::{Bed, DataPack, Objects, kind_of};
use crate::format::name::{LOG, REPOSITORY};

/// What happens to one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// One bit, counted from the object's first.
    Flip(usize),
    /// Only so many bytes are left.
    Cut(usize),
    /// One byte more.
    Grow,
    /// It is gone.
    Lose,
    /// Other bytes lie under its name.
    Replace {
        by: Bytes,
        from: String,
        origin: Origin,
    },
}

/// Where the bytes come from that lie under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The same repository.
    Own,
    /// Another run of its writers, which went another way.
    Fork,
    /// Another repository.
    Stranger,
}

/// What happens to a repository.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Damage {
    pub(super) changes: Vec<(String, Change)>,
}

impl Damage {
    pub(super) fn one(object: &str, change: Change) -> Self {
        let changes = vec![(object.to_owned(), change)];
        Self { changes }
    }

    /// The objects after it.
    pub(super) fn apply(&self, objects: &Objects) -> Objects {
        let mut damaged = objects.clone();
        for (object, change) in &self.changes {
            let bytes = &objects[object];
            let changed = match change {
                Change::Flip(bit) => {
                    let mut flipped = bytes.to_vec();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    flipped.into()
                }
                Change::Cut(len) => bytes.slice(..*len),
                Change::Grow => [&bytes[..], &[0]].concat().into(),
                Change::Replace { by, .. } => by.clone(),
                Change::Lose => {
                    damaged.remove(object);
                    continue;
                }
            };
            damaged.insert(object.clone(), changed);
        }
        damaged
    }

    /// Whether it puts a stranger where only all others can tell which of them is strange: under
    /// `repository`, whose id is what the others are held against; and under a slot of the log,
    /// where another history of this repository is one, too. What then is missing, or does not
    /// follow, is named instead.
    pub(super) fn is_for_others_to_tell(&self) -> bool {
        self.changes.iter().any(|(object, change)| match change {
            Change::Replace { origin, .. } => match origin {
                Origin::Own => false,
                Origin::Fork => object.starts_with(LOG),
                Origin::Stranger => object == REPOSITORY,
            },
            _ => false,
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (object, change)) in self.changes.iter().enumerate() {
            let and = if at > 0 { " and " } else { "" };
            write!(f, "{and}{object} ")?;
            match change {
                Change::Flip(bit) => write!(f, "with bit {} of byte {} flipped", bit % 8, bit / 8),
                Change::Cut(len) => write!(f, "cut to {len} bytes"),
                Change::Grow => f.write_str("with a byte more"),
                Change::Lose => f.write_str("lost"),
                Change::Replace { from, origin, .. } => {
                    write!(f, "replaced by {from} ({origin:?})")
                }
            }?;
        }
        Ok(())
    }
}

/// Different bits of data packs, a third each in headers, payload and footers as far as they have
/// so many, the rest in the payload; each pack has its share.
pub(super) fn flips(bed: &Bed, count: usize, seed: u64) -> Vec<Damage> {
    let parts = |part: fn(&DataPack) -> Range<usize>| -> Vec<(&str, Range<usize>)> {
        let packs = bed.data_packs.iter();
        packs.map(|pack| (&pack.object[..], part(pack))).collect()
    };
    let mut drawn = draw(&parts(DataPack::header), count / 3, seed, "header");
    drawn.extend(draw(&parts(DataPack::footer), count / 3, seed, "footer"));
    let left = count - drawn.len();
    drawn.extend(draw(&parts(DataPack::payload), left, seed, "payload"));
    drawn
        .into_iter()
        .map(|(object, bit)| Damage::one(&object, Change::Flip(bit)))
        .collect()
}

/// Different bits of these ranges of bytes, all when there are no more.
fn draw(
    ranges: &[(&str, Range<usize>)],
    count: usize,
    seed: u64,
    what: &str,
) -> BTreeSet<(String, usize)> {
    let all: usize = ranges.iter().map(|(_, range)| range.len() * 8).sum();
    let mut drawn = BTreeSet::new();
    let bits = |range: &Range<usize>| range.start * 8..range.end * 8;
    if count >= all {
        for (object, range) in ranges {
            drawn.extend(bits(range).map(|bit| ((*object).to_owned(), bit)));
        }
        return drawn;
    }
    for n in 0u64.. {
        if drawn.len() == count {
            break;
        }
        let [which, at] = numbers(seed, what, n);
        let (object, range) = &ranges[which % ranges.len()];
        let bits = bits(range);
        drawn.insert(((*object).to_owned(), bits.start + at % bits.len()));
    }
    drawn
}

/// Two random numbers: the `n`th of their kind.
fn numbers(seed: u64, what: &str, n: u64) -> [usize; 2] {
    let hash = blake3::hash(format!("{seed} {what} {n}").as_bytes());
    let (numbers, _) = hash.as_bytes().as_chunks::<8>();
    [0, 1].map(|at| usize::from_le_bytes(numbers[at]))
}

/// Metadata cut at every length; data packs at every boundary and beside it, and at some others.
pub(super) fn other_lengths(bed: &Bed, seed: u64) -> Vec<Damage> {
    let mut damages = Vec::new();
    for (object, bytes) in &bed.objects {
        let pack = bed.data_packs.iter().find(|pack| pack.object == *object);
        let lengths: BTreeSet<usize> = match pack {
            None => (0..bytes.len()).collect(),
            Some(pack) => {
                let beside = |at: usize| [at.saturating_sub(1), at, at + 1];
                let sampled = (0..16).map(|n| numbers(seed, "cut", n)[0] % bytes.len());
                let near = pack.boundaries().into_iter().flat_map(beside);
                let all = sampled.chain(near);
                all.filter(|len| *len < bytes.len()).collect()
            }
        };
        damages.extend(lengths.into_iter().map(|len| (object, Change::Cut(len))));
        damages.push((object, Change::Grow));
        damages.push((object, Change::Lose));
    }
    damages
        .into_iter()
        .map(|(object, change)| Damage::one(object, change))
        .collect()
}

/// Each pair of a kind exchanged, and every object under every other one's name.
pub(super) fn swaps(bed: &Bed) -> Vec<Damage> {
    let put = |name: &String, other: &String| {
        let change = Change::Replace {
            by: bed.objects[other].clone(),
            from: other.clone(),
            origin: Origin::Own,
        };
        (name.clone(), change)
    };
    let mut damages = Vec::new();
    for name in bed.objects.keys() {
        for other in bed.objects.keys().filter(|other| *other != name) {
            damages.push(vec![put(name, other)]);
            if name < other && kind_of(name) == kind_of(other) {
                damages.push(vec![put(name, other), put(other, name)]);
            }
        }
    }
    let damages = damages.into_iter();
    damages.map(|changes| Damage { changes }).collect()
}

/// Every object of a kind that other runs and other repositories have, under each name.
pub(super) fn strangers(bed: &Bed) -> Vec<Damage> {
    let mut damages = Vec::new();
    for (origin, objects) in &bed.strangers {
        for (name, own) in &bed.objects {
            for (from, by) in objects {
                if kind_of(name) == kind_of(from) && own != by {
                    let change = Change::Replace {
                        by: by.clone(),
                        from: from.clone(),
                        origin: *origin,
                    };
                    damages.push(Damage::one(name, change));
                }
            }
        }
    }
    damages
}
