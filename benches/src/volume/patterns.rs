//! Bytes from seeds: the same ones on every machine.

/// Length of a run of one kind of bytes.
pub const RUN_BYTES: usize = 16 << 20;

/// Random bytes: run number `number` of an endless row.
pub fn random_run(number: u64, run: &mut [u8]) {
    random("random volume", number, run);
}

/// Random bytes that `purpose` and `number` name.
pub fn random(purpose: &str, number: u64, bytes: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(bytes);
}

/// By fours: random, text, random, zeros.
pub fn mixed_run(number: u64, run: &mut [u8]) {
    match number % 4 {
        1 => text(number, run),
        3 => run.fill(0),
        _ => random("mixed volume", number, run),
    }
}

/// Words as they may stand in a log: zstd makes a fourth or fifth of it.
pub fn text(number: u64, bytes: &mut [u8]) {
    const WORDS: [&str; 24] = [
        "accepted",
        "block",
        "cache",
        "connection",
        "deadline",
        "device",
        "error",
        "flush",
        "from",
        "index",
        "latency",
        "lease",
        "node",
        "offset",
        "opened",
        "peer",
        "read",
        "reply",
        "session",
        "shard",
        "timeout",
        "volume",
        "warning",
        "write",
    ];
    let mut draw = Draw::new("text", number);
    let mut line = String::new();
    let mut left = bytes;
    while !left.is_empty() {
        line.clear();
        let random = draw.next_u64();
        line.push_str(&format!("{:08x} ", random & 0x00ff_ffff));
        for at in 0..6 {
            let word = usize::try_from(random >> (24 + 6 * at)).unwrap_or(0) % WORDS.len();
            line.push_str(WORDS[word]);
            line.push(' ');
        }
        line.push_str(&format!("{}\n", random >> 52));
        let len = line.len().min(left.len());
        let (now, later) = left.split_at_mut(len);
        now.copy_from_slice(&line.as_bytes()[..len]);
        left = later;
    }
}

/// A row of random numbers from a seed.
pub struct Draw {
    source: blake3::OutputReader,
}

impl Draw {
    /// The row that `purpose` and `seed` name.
    pub fn new(purpose: &str, seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        hasher.update(&seed.to_le_bytes());
        Self {
            source: hasher.finalize_xof(),
        }
    }

    /// The next one.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.source.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The next one, below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: &[u8]) -> f64 {
        lz4_flex::block::compress(bytes).len() as f64 / bytes.len() as f64
    }

    #[test]
    fn runs_are_random_compressible_or_zero_and_the_same_every_time() {
        let mut runs = [const { Vec::new() }; 4];
        for (number, run) in (0..).zip(&mut runs) {
            *run = vec![9; 1 << 20];
            mixed_run(number, run);
        }
        assert!(compressed(&runs[0]) > 0.99);
        let text = compressed(&runs[1]);
        assert!((0.1..0.5).contains(&text), "{text}");
        assert!(compressed(&runs[2]) > 0.99);
        assert!(runs[3].iter().all(|&byte| byte == 0));
        assert_ne!(runs[0], runs[2]);
        let mut again = vec![0; 1 << 20];
        mixed_run(1, &mut again);
        assert_eq!(again, runs[1]);
    }

    #[test]
    fn drawn_numbers_stay_below_their_end_and_reach_all_of_it() {
        let mut draw = Draw::new("test", 1);
        let mut seen = [false; 7];
        for _ in 0..200 {
            seen[usize::try_from(draw.below(7)).expect("small")] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
