//! Mistakes that a build can be given on purpose, to show that the tests which are to notice them
//! do (`tests/kills/planted`). No other build has them.

use ringback_datapath::restore::Ground;

/// A volume under restore takes its name before it holds its backup.
pub(crate) const RENAME_FIRST: bool = cfg!(feature = "planted-rename-first");

/// A start leaves what a killed daemon left.
pub(crate) const NO_SWEEP: bool = cfg!(feature = "planted-no-sweep");

/// A restore takes what a volume held before for zeros.
const NO_ZEROING: bool = cfg!(feature = "planted-no-zeroing");

/// What a restore believes of its ground.
pub(crate) fn ground(ground: Ground) -> Ground {
    if NO_ZEROING { Ground::Zeros } else { ground }
}

#[cfg(all(
    not(debug_assertions),
    any(
        feature = "planted-rename-first",
        feature = "planted-no-sweep",
        feature = "planted-no-zeroing"
    )
))]
compile_error!("a planted mistake is for debug builds under test alone");
