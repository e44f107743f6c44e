//! The raw limit as a contender: see [`crate::raw`].

use std::env;

use super::{Bed, Contender};
use crate::{measure::process::Launch, results::Phase};

pub(super) struct RawLimit {
    pub(super) transfers: usize,
}

impl Contender for RawLimit {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn about(&self) -> &'static str {
        "the raw limit: O_DIRECT reads, 8 MiB PUTs, and back; no hash, no dedupe; an unchanged \
         volume is only read"
    }

    fn version(&self) -> Option<String> {
        Some(env!("CARGO_PKG_VERSION").to_owned())
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::First, Phase::Unchanged, Phase::Restore]
    }

    fn fills_target(&self) -> bool {
        true
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let this = env::current_exe().unwrap_or_else(|_| "ringback-bench".into());
        let (verb, volume) = match phase {
            Phase::First => ("put", bed.volume.path.clone()),
            Phase::Unchanged | Phase::Changed => ("read", bed.volume.path.clone()),
            Phase::Restore => ("get", bed.target()),
        };
        Launch::new(this)
            .args(["raw", verb, "--volume"])
            .arg(volume)
            .args(["--bytes", &bed.volume.bytes.to_string()])
            .args(["--endpoint", &bed.address.url])
            .args(["--bucket", &bed.address.bucket])
            .args(["--prefix", &bed.prefix])
            .args(["--transfers", &self.transfers.to_string()])
            .envs(bed.address.environment())
    }
}
