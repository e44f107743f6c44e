//! The digests that S3 clients send along with bodies: which there are, how they are named, how
//! they are verified and combined.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// A digest that S3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// The header, or trailer, that carries a value of it.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    fn switch_on(self, hasher: &mut ChecksumHasher) {
        match self {
            Self::Crc32 => hasher.crc32 = Some(Crc32::new()),
            Self::Crc32c => hasher.crc32c = Some(Crc32c::new()),
            Self::Crc64Nvme => hasher.crc64nvme = Some(Crc64Nvme::new()),
            Self::Sha1 => hasher.sha1 = Some(Sha1::new()),
            Self::Sha256 => hasher.sha256 = Some(Sha256::new()),
        }
    }
}

/// Digests by algorithm, each in the base64 form in which it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksums(BTreeMap<Algorithm, String>);

impl Checksums {
    pub(crate) fn get(&self, algorithm: Algorithm) -> Option<String> {
        self.0.get(&algorithm).cloned()
    }

    pub(crate) fn insert(&mut self, algorithm: Algorithm, value: String) {
        self.0.insert(algorithm, value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every digest in `claimed` is one of these, with the same value.
    pub(crate) fn contain(&self, claimed: &Self) -> bool {
        claimed
            .0
            .iter()
            .all(|(algorithm, value)| self.0.get(algorithm) == Some(value))
    }

    /// The digests of a whole multipart object as S3 forms them: the digest of its parts' digests,
    /// then a dash and the number of parts. Only for algorithms that every part has; CRC64NVME has
    /// no such form.
    pub(crate) fn composite(parts: &[&Self]) -> Self {
        let mut composite = Self::default();
        for algorithm in Algorithm::ALL
            .into_iter()
            .filter(|algorithm| *algorithm != Algorithm::Crc64Nvme)
        {
            let digests: Option<Vec<Vec<u8>>> = parts
                .iter()
                .map(|part| BASE64.decode(part.0.get(&algorithm)?).ok())
                .collect();
            if let Some(digests) = digests {
                let mut hasher = Hasher::new([algorithm], false);
                hasher.update(&digests.concat());
                if let Some(value) = hasher.finish().0.get(algorithm) {
                    composite.insert(algorithm, format!("{value}-{}", parts.len()));
                }
            }
        }
        composite
    }
}

/// Copies the digests in `$checksums` into the five fields of an S3 output.
macro_rules! fill_checksums {
    ($output:expr, $checksums:expr) => {{
        use $crate::checksums::Algorithm;
        $output.checksum_crc32 = $checksums.get(Algorithm::Crc32);
        $output.checksum_crc32c = $checksums.get(Algorithm::Crc32c);
        $output.checksum_crc64nvme = $checksums.get(Algorithm::Crc64Nvme);
        $output.checksum_sha1 = $checksums.get(Algorithm::Sha1);
        $output.checksum_sha256 = $checksums.get(Algorithm::Sha256);
    }};
}
pub(crate) use fill_checksums;

/// Collects the digests in the five fields of an S3 input.
macro_rules! take_checksums {
    ($input:expr) => {{
        use $crate::checksums::{Algorithm, Checksums};
        let mut checksums = Checksums::default();
        for (algorithm, value) in [
            (Algorithm::Crc32, &$input.checksum_crc32),
            (Algorithm::Crc32c, &$input.checksum_crc32c),
            (Algorithm::Crc64Nvme, &$input.checksum_crc64nvme),
            (Algorithm::Sha1, &$input.checksum_sha1),
            (Algorithm::Sha256, &$input.checksum_sha256),
        ] {
            if let Some(value) = value {
                checksums.insert(algorithm, value.clone());
            }
        }
        checksums
    }};
}
pub(crate) use take_checksums;

/// Computes the digests asked for, and no others, over a body in pieces.
pub(crate) struct Hasher {
    checksums: ChecksumHasher,
    md5: Option<Md5>,
}

impl Hasher {
    pub(crate) fn new(algorithms: impl IntoIterator<Item = Algorithm>, md5: bool) -> Self {
        let mut checksums = ChecksumHasher::default();
        for algorithm in algorithms {
            algorithm.switch_on(&mut checksums);
        }
        Self {
            checksums,
            md5: md5.then(Md5::new),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.checksums.update(data);
        if let Some(md5) = &mut self.md5 {
            md5.update(data);
        }
    }

    /// The digests, and the MD5 when it was asked for, all in base64.
    pub(crate) fn finish(self) -> (Checksums, Option<String>) {
        let digests = self.checksums.finalize();
        let md5 = self.md5.map(|md5| BASE64.encode(md5.finalize()));
        (take_checksums!(digests), md5)
    }
}

/// What a request claims about its body's digests.
#[derive(Default)]
pub(crate) struct Claims {
    checksums: Checksums,
    md5: Option<String>,
    /// Digests that are promised for the trailers, which come after the body.
    trailing: Vec<Algorithm>,
}

impl Claims {
    pub(crate) fn from_headers(headers: &http::HeaderMap) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let promised: Vec<String> = headers
            .get_all("x-amz-trailer")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|names| {
                names
                    .split(',')
                    .map(|name| name.trim().to_ascii_lowercase())
            })
            .collect();
        let mut claims = Self {
            md5: header("content-md5").map(str::to_owned),
            ..Self::default()
        };
        for algorithm in Algorithm::ALL {
            if let Some(value) = header(algorithm.header()) {
                claims.checksums.insert(algorithm, value.to_owned());
            } else if promised.iter().any(|name| name == algorithm.header()) {
                claims.trailing.push(algorithm);
            }
        }
        claims
    }

    pub(crate) fn hasher(&self) -> Hasher {
        Hasher::new(
            self.checksums.0.keys().chain(&self.trailing).copied(),
            self.md5.is_some(),
        )
    }

    /// Takes what was promised for the trailers from there.
    pub(crate) fn read_trailers(
        &mut self,
        trailers: Option<&s3s::TrailingHeaders>,
    ) -> S3Result<()> {
        for algorithm in std::mem::take(&mut self.trailing) {
            let value = trailers
                .and_then(|trailers| {
                    trailers
                        .read(|headers| headers.get(algorithm.header()).cloned())
                        .flatten()
                })
                .ok_or_else(|| {
                    s3_error!(
                        InvalidRequest,
                        "the trailer {} is missing",
                        algorithm.header()
                    )
                })?;
            let value = value.to_str().map_err(|_| s3_error!(BadDigest))?;
            self.checksums.insert(algorithm, value.to_owned());
        }
        Ok(())
    }

    /// Compares the claims with what the body turned out to be, and returns the digests that are
    /// now known to be right.
    pub(crate) fn verify(self, hasher: Hasher) -> S3Result<Checksums> {
        let (found, md5) = hasher.finish();
        if md5 != self.md5 {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        if !found.contain(&self.checksums) {
            return Err(s3_error!(
                BadDigest,
                "The checksum you specified did not match the calculated checksum."
            ));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composite_is_the_digest_of_the_parts_digests() {
        let part = |bytes: &[u8]| {
            let mut hasher = Hasher::new([Algorithm::Crc32c], false);
            hasher.update(bytes);
            hasher.finish().0
        };
        let (one, two) = (part(b"one"), part(b"two"));
        let composite = Checksums::composite(&[&one, &two]);
        let digests = [Crc32c::checksum(b"one"), Crc32c::checksum(b"two")].concat();
        let expected = format!("{}-2", BASE64.encode(Crc32c::checksum(&digests)));
        assert_eq!(composite.get(Algorithm::Crc32c), Some(expected));
        assert_eq!(composite.get(Algorithm::Sha256), None);
    }
}
