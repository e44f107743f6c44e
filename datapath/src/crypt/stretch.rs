//! Stretching: from a passphrase to a key, so slowly that guessing does not pay.
//!
//! One stretching takes 64 MiB and a fraction of a second, so one runs at a time in a process, and
//! the last few results are kept: who asks about a repository every half minute pays once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use super::{KEY_BYTES, Key, Passphrase};
use crate::{
    error::Error,
    format::{FormatError, name::random},
    tasks::blocking,
};
use ringback_proto::repository::Stretching as StretchingMessage;

/// Results kept.
const KEPT: usize = 16;

/// How passphrases become keys in one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretching {
    salt: [u8; 16],
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
}

/// A stretched passphrase.
pub(crate) type Stretched = Arc<Key>;

impl Stretching {
    /// That of a new repository.
    pub(crate) fn new() -> Self {
        Self::with_salt(random())
    }

    /// Today's parameters.
    pub fn with_salt(salt: [u8; 16]) -> Self {
        Self {
            salt,
            memory_kib: 64 << 10,
            iterations: 3,
            lanes: 4,
        }
    }

    /// Reads the stored form; what would take no time, or no end, is refused.
    pub(crate) fn from_message(message: &StretchingMessage) -> Result<Self, FormatError> {
        let salt = message.salt[..]
            .try_into()
            .map_err(|_| FormatError::Damaged("its stretching's salt is not 16 bytes"))?;
        let in_range = (8 << 10..=1 << 20).contains(&message.memory_kib)
            && (1..=64).contains(&message.iterations)
            && (1..=16).contains(&message.lanes);
        if !in_range {
            return Err(FormatError::Damaged(
                "its stretching is out of range: 8 MiB to 1 GiB, 1 to 64 iterations, 1 to 16 lanes",
            ));
        }
        Ok(Self {
            salt,
            memory_kib: message.memory_kib,
            iterations: message.iterations,
            lanes: message.lanes,
        })
    }

    /// The stored form.
    pub(crate) fn to_message(self) -> StretchingMessage {
        StretchingMessage {
            salt: bytes::Bytes::copy_from_slice(&self.salt),
            memory_kib: self.memory_kib,
            iterations: self.iterations,
            lanes: self.lanes,
        }
    }

    /// Stretches a passphrase, unless that was done a moment ago.
    pub(crate) async fn stretch(self, passphrase: &Passphrase) -> Result<Stretched, Error> {
        static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);
        if let Some(kept) = self.kept(passphrase) {
            return Ok(kept);
        }
        let _turn = ONE_AT_A_TIME.acquire().await.expect("never closed");
        // Who was before us may have had the same to do.
        if let Some(kept) = self.kept(passphrase) {
            return Ok(kept);
        }
        let text = passphrase.clone();
        let stretched = Arc::new(blocking(move || self.compute(&text)).await?);
        let mut kept = lock(&RESULTS);
        kept.truncate(KEPT - 1);
        kept.push_front((self.ticket(passphrase), Arc::clone(&stretched)));
        Ok(stretched)
    }

    fn kept(self, passphrase: &Passphrase) -> Option<Stretched> {
        let ticket = self.ticket(passphrase);
        let mut kept = lock(&RESULTS);
        let at = kept.iter().position(|(other, _)| *other == ticket)?;
        let found = kept.remove(at)?;
        let stretched = Arc::clone(&found.1);
        kept.push_front(found);
        Some(stretched)
    }

    /// By what a result is found again. Keyed anew in each process: it tells nobody anything.
    fn ticket(self, passphrase: &Passphrase) -> blake3::Hash {
        static TICKET_KEY: OnceLock<Key> = OnceLock::new();
        let mut hasher = blake3::Hasher::new_keyed(TICKET_KEY.get_or_init(Key::random).reveal());
        hasher.update(&self.salt);
        for number in [self.memory_kib, self.iterations, self.lanes] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(passphrase.bytes());
        hasher.finalize()
    }

    /// The work itself. Its memory goes back to the kernel, which hands it out zeroed.
    pub fn compute(self, passphrase: &Passphrase) -> Key {
        tracing::debug!(memory_kib = self.memory_kib, "stretching a passphrase");
        #[cfg(test)]
        lock(&COUNTS).push(self.salt);
        let params = Params::new(
            self.memory_kib,
            self.iterations,
            self.lanes,
            Some(KEY_BYTES),
        );
        let argon2 = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            params.expect("in range"),
        );
        Key::filled_by(|key| {
            argon2
                .hash_password_into(passphrase.bytes(), &self.salt, key)
                .expect("lengths are in range");
        })
    }
}

static RESULTS: Mutex<VecDeque<(blake3::Hash, Stretched)>> = Mutex::new(VecDeque::new());

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The salts of all that was computed.
#[cfg(test)]
static COUNTS: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());

/// How often a passphrase was stretched with this salt in this process.
#[cfg(test)]
pub(crate) fn stretchings_with(salt: &[u8]) -> usize {
    lock(&COUNTS).iter().filter(|it| it[..] == *salt).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::location::Secret;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Secret::new(text)).expect("valid")
    }

    #[test]
    fn a_stretching_out_of_range_is_refused() {
        let good = Stretching::new().to_message();
        assert!(Stretching::from_message(&good).is_ok());
        let changes: [fn(&mut StretchingMessage); 7] = [
            |it| it.salt = bytes::Bytes::from_static(&[0; 15]),
            |it| it.memory_kib = (8 << 10) - 1,
            |it| it.memory_kib = (1 << 20) + 1,
            |it| it.iterations = 0,
            |it| it.iterations = 65,
            |it| it.lanes = 0,
            |it| it.lanes = 17,
        ];
        for change in changes {
            let mut odd = good.clone();
            change(&mut odd);
            assert!(Stretching::from_message(&odd).is_err(), "{odd:?}");
        }
    }

    #[tokio::test]
    async fn what_was_stretched_a_moment_ago_is_not_stretched_again() {
        let stretching = Stretching {
            memory_kib: 8 << 10,
            iterations: 1,
            ..Stretching::new()
        };
        let (one, other) = (passphrase("one"), passphrase("other"));
        let both = [stretching.stretch(&one), stretching.stretch(&one)];
        let both = futures::future::try_join_all(both)
            .await
            .expect("stretched");
        assert_eq!(both[0].reveal(), both[1].reveal());
        assert_eq!(stretchings_with(&stretching.salt), 1);
        let different = stretching.stretch(&other).await.expect("stretched");
        assert_ne!(different.reveal(), both[0].reveal());
        let more = Stretching {
            iterations: 2,
            ..stretching
        };
        let slower = more.stretch(&one).await.expect("stretched");
        assert_ne!(slower.reveal(), both[0].reveal());
        assert_eq!(stretchings_with(&stretching.salt), 3);
    }
}
