//! No changed, missing, foreign or stale object goes unnoticed, and none makes a restore write a
//! wrong byte.
//!
//! [`beds`]: small repositories, plain and encrypted, and their strangers. [`changes`]: what is done
//! to them, to every object there is, of whatever kind. [`judge`]: what must come of it.
//!
//! Of data packs `RINGBACK_FLIPS` bits are flipped, a third each in headers, payload and footers as
//! far as they have so many, drawn by `RINGBACK_SEED`; with 2,000 and more, every bit of metadata.

mod beds;
mod changes;
mod judge;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use self::{
    beds::{Bed, beds},
    changes::{Change, Damage},
    judge::Restores,
};
use crate::verify::Depth;

/// Flips in data packs in the ordinary tier; `RINGBACK_FLIPS` says otherwise.
const FLIPS: usize = 300;

/// So many flips are asked for where there is time for every bit of metadata, too. With fewer it is
/// one of each byte, another one in the next.
const FLIPS_FOR_EVERY_BIT: usize = 2000;

fn number<T: std::str::FromStr>(variable: &str, ordinary: T) -> T {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| {
            panic!("{variable} is {text:?}; it should be a whole number");
        }),
        Err(_) => ordinary,
    }
}

fn seed() -> u64 {
    number("RINGBACK_SEED", 1)
}

/// How damage is looked for.
#[derive(Clone, Copy)]
struct Look {
    depth: Depth,
    restores: Restores,
}

/// Everything there is: chunks are read, and every backup is restored.
const ALL: Look = Look {
    depth: Depth::with_data(100),
    restores: Restores::All,
};

/// Metadata is read, which shows its damage as well, and backups are restored after every eighth.
fn cheap(n: usize) -> Look {
    Look {
        depth: Depth::METADATA,
        restores: if n.is_multiple_of(8) {
            Restores::All
        } else {
            Restores::None
        },
    }
}

/// Does each damage to the bed, on all processors; how many were noticed, and how many did no harm.
fn hold_all(bed: &Bed, test: &str, damages: &[(Damage, Look)]) -> [usize; 2] {
    let (next, counts) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 2]);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        while let Some((damage, look)) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
            let held = || runtime.block_on(judge::hold(bed, damage, look.depth, look.restores));
            match catch_unwind(AssertUnwindSafe(held)) {
                Ok(judged) => counts[judged as usize].fetch_add(1, Ordering::Relaxed),
                Err(panic) => {
                    eprintln!(
                        "the {} repository, {damage}; to see it again: RINGBACK_SEED={} \
                         RINGBACK_FLIPS={} cargo test -p ringback-datapath --lib damage::{test}",
                        bed.label,
                        seed(),
                        number("RINGBACK_FLIPS", FLIPS),
                    );
                    // Nobody needs to hear it of all the others.
                    next.store(damages.len(), Ordering::Relaxed);
                    resume_unwind(panic)
                }
            };
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    let [noticed, harmless] = counts.map(AtomicUsize::into_inner);
    println!(
        "the {} repository: {noticed} damages noticed, {harmless} did no harm",
        bed.label
    );
    [noticed, harmless]
}

/// The same of what may never go unnoticed.
fn hold_all_noticed(bed: &Bed, test: &str, damages: &[(Damage, Look)]) {
    let [noticed, harmless] = hold_all(bed, test, damages);
    assert_eq!((noticed, harmless), (damages.len(), 0));
}

#[test]
fn every_flipped_bit_of_every_metadata_object_is_noticed_and_named() {
    let test = "every_flipped_bit_of_every_metadata_object_is_noticed_and_named";
    let has_time = number("RINGBACK_FLIPS", FLIPS) >= FLIPS_FOR_EVERY_BIT;
    for bed in beds() {
        let mut damages = Vec::new();
        for object in bed.metadata() {
            for byte in 0..bed.objects[&object].len() {
                let one = byte % 8;
                let bits = if has_time { 0..8 } else { one..one + 1 };
                for bit in bits {
                    let damage = Damage::one(&object, Change::Flip(byte * 8 + bit));
                    damages.push((damage, cheap(byte + bit)));
                }
            }
        }
        hold_all_noticed(bed, test, &damages);
    }
}

#[test]
fn flipped_bits_of_data_packs_are_noticed_unless_they_mean_nothing() {
    let test = "flipped_bits_of_data_packs_are_noticed_unless_they_mean_nothing";
    let flips = number("RINGBACK_FLIPS", FLIPS);
    for bed in beds() {
        let drawn = changes::flips(bed, flips / 2, seed());
        let damages: Vec<_> = drawn.into_iter().map(|damage| (damage, ALL)).collect();
        let [noticed, harmless] = hold_all(bed, test, &damages);
        assert_eq!(noticed + harmless, flips / 2);
        // Two forms of one chunk are rare among all that a compressed record may be.
        assert!(harmless * 20 <= noticed, "{harmless} of {noticed}");
    }
}

#[test]
fn a_cut_at_any_length_a_byte_more_and_a_lost_object_are_noticed_and_named() {
    let test = "a_cut_at_any_length_a_byte_more_and_a_lost_object_are_noticed_and_named";
    for bed in beds() {
        let look = |(n, damage): (usize, Damage)| match &damage.changes[..] {
            [(object, Change::Cut(_))] if !bed.is_data(object) => (damage, cheap(n)),
            _ => (damage, ALL),
        };
        let all = changes::other_lengths(bed, seed()).into_iter();
        let damages: Vec<_> = all.enumerate().map(look).collect();
        let [_, missed] = hold_all(bed, test, &damages);
        // The log's newest entry, and the slot of a passphrase that is not used here.
        assert_eq!(missed, 1 + usize::from(bed.passphrase.is_some()));
    }
}

#[test]
fn objects_in_each_others_place_are_noticed_and_named() {
    let test = "objects_in_each_others_place_are_noticed_and_named";
    for bed in beds() {
        let damages: Vec<_> = changes::swaps(bed)
            .into_iter()
            .map(|damage| (damage, ALL))
            .collect();
        hold_all_noticed(bed, test, &damages);
    }
}

#[test]
fn objects_of_other_repositories_and_of_other_runs_are_noticed_and_named() {
    let test = "objects_of_other_repositories_and_of_other_runs_are_noticed_and_named";
    for bed in beds() {
        let damages: Vec<_> = changes::strangers(bed)
            .into_iter()
            .map(|damage| (damage, ALL))
            .collect();
        hold_all_noticed(bed, test, &damages);
    }
}
