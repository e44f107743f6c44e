//! How hard to compress, by where a backup's time goes.
//!
//! Whoever writes a backup waits for the store, for compression, or for the volume. Time spent waiting
//! for the store is time in which a chunk could have been made smaller; time spent waiting for
//! compression, while the store idles, is time lost. So: a rung up, a rung down, or stay. Down is taken
//! at once; up is tried less and less often where it was taken back.
//!
//! The rungs, measured with chunks of 256 KiB on one core of the machine that this was written on
//! (`docs/decisions/0014`); each costs a good deal more than the one before and gives less:
//!
//! | | size of programs | of texts | GB/s |
//! |---|---|---|---|
//! | LZ4 | 46 % | 47 % | 0.6 |
//! | zstd 1 | 33 % | 35 % | 0.4 |
//! | zstd 3 | 31 % | 33 % | 0.3 |
//! | zstd 6 | 30 % | 32 % | 0.1 |
//! | zstd 9 | 29 % | 31 % | 0.06 |
//!
//! This is arithmetic: it knows no clock and no store.

use std::time::Duration;

use super::{Compression, Effort, ZstdLevel};

const fn zstd(level: u8) -> Effort {
    Effort::Zstd(ZstdLevel::new(level).expect("a level of zstd"))
}

const RUNGS: [Effort; 6] = [
    Effort::None,
    Effort::Lz4,
    zstd(1),
    zstd(3),
    zstd(6),
    zstd(9),
];
/// Where a backup begins: what any store but the fastest gains from.
const FIRST_RUNG: usize = 2;

/// Time is judged over so many bytes of new chunks, if they took [`TIME_MIN`], ...
const BYTES: u64 = 16 << 20;
/// ... lest a burst is taken for a trend, ...
const TIME_MIN: Duration = Duration::from_millis(200);
/// ... or over this time.
const TIME_MAX: Duration = Duration::from_secs(2);
/// A fifth of the time spent waiting for the same thing is worth a step.
const SHARE: u32 = 5;
/// A rung that was too heavy each time is tried once in so many times at last.
const REST_MAX: u32 = 16;

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// The store took no more.
    Store,
    /// A chunk was not compressed yet, and the store could have taken it.
    Compression,
    /// Nothing that another effort would change: the volume, or both at once.
    Nothing,
}

/// Decides how hard each chunk is compressed.
pub(crate) enum Pace {
    Fixed(Effort),
    Auto(Auto),
}

impl Pace {
    pub(crate) fn new(compression: Compression) -> Self {
        match compression {
            Compression::Fixed(effort) => Self::Fixed(effort),
            Compression::Auto => Self::Auto(Auto::default()),
        }
    }

    /// For the next chunk.
    pub(crate) fn effort(&self) -> Effort {
        match self {
            Self::Fixed(effort) => *effort,
            Self::Auto(auto) => RUNGS[auto.rung],
        }
    }

    /// Takes note of a wait that is over.
    pub(crate) fn waited(&mut self, what: WaitFor, time: Duration) {
        if let Self::Auto(auto) = self {
            auto.waited(what, time);
        }
    }

    /// Takes note of a new chunk.
    pub(crate) fn stored(&mut self, chunk_bytes: u64) {
        if let Self::Auto(auto) = self {
            auto.bytes += chunk_bytes;
            auto.judge_if_due();
        }
    }
}

/// The controller.
pub(crate) struct Auto {
    rung: usize,
    /// The direction of the last step.
    last: Option<Step>,
    /// How often in a row a heavier rung is not tried: more each time that it was too heavy.
    rest: u32,
    rested: u32,
    bytes: u64,
    time: Duration,
    for_store: Duration,
    for_compression: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Harder,
    Lighter,
}

impl Default for Auto {
    fn default() -> Self {
        Self {
            rung: FIRST_RUNG,
            last: None,
            rest: 0,
            rested: 0,
            bytes: 0,
            time: Duration::ZERO,
            for_store: Duration::ZERO,
            for_compression: Duration::ZERO,
        }
    }
}

impl Auto {
    fn waited(&mut self, what: WaitFor, time: Duration) {
        self.time += time;
        match what {
            WaitFor::Store => self.for_store += time,
            WaitFor::Compression => self.for_compression += time,
            WaitFor::Nothing => {}
        }
    }

    fn judge_if_due(&mut self) {
        let is_due = self.bytes >= BYTES && self.time >= TIME_MIN || self.time >= TIME_MAX;
        if !is_due {
            return;
        }
        let wish = self.wish();
        (self.bytes, self.time) = (0, Duration::ZERO);
        (self.for_store, self.for_compression) = (Duration::ZERO, Duration::ZERO);
        match wish {
            Some(Step::Harder) if self.rested < self.rest => self.rested += 1,
            Some(step) => self.take(step),
            None => {}
        }
    }

    fn wish(&self) -> Option<Step> {
        let enough = self.time / SHARE;
        if self.for_store >= enough && self.for_store >= self.for_compression {
            (self.rung + 1 < RUNGS.len()).then_some(Step::Harder)
        } else if self.for_compression >= enough {
            (self.rung > 0).then_some(Step::Lighter)
        } else {
            None
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Harder => {
                if self.last == Some(Step::Harder) {
                    self.rest = 0;
                }
                self.rung += 1;
            }
            Step::Lighter => {
                if self.last == Some(Step::Harder) {
                    self.rest = (self.rest * 2).clamp(1, REST_MAX);
                }
                self.rung -= 1;
            }
        }
        (self.last, self.rested) = (Some(step), 0);
        tracing::debug!(effort = %RUNGS[self.rung], ?step, "compression follows the bottleneck");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each rung makes of 100 bytes, and how many MB/s go through it on two cores.
    const SIZE: [f64; 6] = [100.0, 47.0, 35.0, 33.0, 31.5, 31.0];
    const SPEED: [f64; 6] = [1e5, 1000.0, 800.0, 600.0, 200.0, 120.0];
    const CHUNK: u64 = 256 << 10;

    /// A backup of so many MiB from a volume and to a store of these speeds, in MB/s; how many of
    /// its chunks were compressed how hard.
    fn back_up(mb: u32, volume: f64, store: f64, compressibility: [f64; 6]) -> [f64; 6] {
        let mut pace = Pace::new(Compression::Auto);
        let mut shares = [0.0; 6];
        let chunks = mb * 4;
        for _ in 0..chunks {
            let rung = RUNGS.iter().position(|it| *it == pace.effort());
            let rung = rung.expect("a rung");
            shares[rung] += 1.0 / f64::from(chunks);
            let times = [
                (WaitFor::Store, compressibility[rung] / 100.0 / store),
                (WaitFor::Compression, 1.0 / SPEED[rung]),
                (WaitFor::Nothing, 1.0 / volume),
            ];
            // The stages overlap: the slowest is what is waited for.
            let slowest = times.iter().max_by(|a, b| a.1.total_cmp(&b.1));
            let (what, seconds_per_mb) = slowest.expect("three");
            let seconds = seconds_per_mb * CHUNK as f64 / 1e6;
            pace.waited(*what, Duration::from_secs_f64(seconds));
            pace.stored(CHUNK);
        }
        shares
    }

    #[test]
    fn a_slow_store_makes_it_compress_as_hard_as_it_can() {
        let shares = back_up(2000, 2000.0, 10.0, SIZE);
        assert!(shares[5] > 0.9, "{shares:?}");
    }

    #[test]
    fn a_store_faster_than_compression_makes_it_compress_lightly_or_not_at_all() {
        let shares = back_up(20_000, 5000.0, 4000.0, SIZE);
        assert!(shares[0] > 0.9, "{shares:?}");
    }

    #[test]
    fn between_two_rungs_it_stays_at_the_lighter_and_tries_the_other_rarely() {
        // zstd 3 leaves the store waiting, zstd 6 is waited for.
        let shares = back_up(100_000, 5000.0, 100.0, SIZE);
        assert!(
            shares[3] > 0.85 && shares[3] + shares[4] > 0.97,
            "{shares:?}"
        );
    }

    #[test]
    fn data_that_does_not_shrink_goes_up_as_fast_as_the_store_takes_it() {
        let shares = back_up(20_000, 5000.0, 900.0, [100.0; 6]);
        let slow: f64 = shares[3..].iter().sum();
        assert!(slow < 0.1, "{shares:?}");
    }

    #[test]
    fn a_slow_volume_changes_nothing() {
        let shares = back_up(2000, 50.0, 1000.0, SIZE);
        assert!(shares[FIRST_RUNG] > 0.99, "{shares:?}");
    }

    #[test]
    fn a_burst_is_no_trend() {
        let mut pace = Pace::new(Compression::Auto);
        let first = pace.effort();
        for _ in 0..(BYTES / CHUNK) {
            pace.waited(WaitFor::Store, Duration::from_millis(1));
            pace.stored(CHUNK);
        }
        assert_eq!(pace.effort(), first);
    }

    #[test]
    fn a_fixed_effort_stays_whatever_is_waited_for() {
        let mut pace = Pace::new(Compression::Fixed(Effort::Lz4));
        for what in [WaitFor::Store, WaitFor::Compression] {
            pace.waited(what, TIME_MAX);
            pace.stored(BYTES);
        }
        assert_eq!(pace.effort(), Effort::Lz4);
    }
}
