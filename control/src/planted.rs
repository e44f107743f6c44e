//! Mistakes that a daemon can be told to make, to show that the tests which are to notice them do (`tests/planted`). Only a
//! build with the feature `planted` can be told, by `PLANTED_MISTAKE` in its environment.

use std::env;

use ringback_datapath::restore::Ground;

/// Whether a volume under restore takes its name before it holds its backup.
pub(crate) fn rename_first() -> bool {
    is_told("rename-first")
}

/// Whether a start leaves what a killed daemon left.
pub(crate) fn no_sweep() -> bool {
    is_told("no-sweep")
}

/// What a restore believes of its ground: told to, it takes what a volume held before for zeros.
pub(crate) fn ground(ground: Ground) -> Ground {
    if is_told("no-zeroing") {
        Ground::Zeros
    } else {
        ground
    }
}

fn is_told(mistake: &str) -> bool {
    cfg!(feature = "planted") && env::var_os("PLANTED_MISTAKE").is_some_and(|told| told == mistake)
}

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("planted mistakes are for debug builds under test alone");
