//! Bytes for hashing: every text has its length before it and every list its count, so that no two
//! different values are written alike.

use crate::digest::Digest;

/// Takes values one after the other.
#[derive(Debug)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Begins with what is encoded and the version of how.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        let mut encoder = Self(Vec::new());
        encoder.text(purpose);
        encoder
    }

    /// How many there are, or how long it is.
    pub fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u64).to_le_bytes());
    }

    /// Bytes, with their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// A text, with its length.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Which of several.
    pub fn choice(&mut self, choice: u8) {
        self.0.push(choice);
    }

    /// A text that may be absent, which is not the same as an empty one.
    pub fn optional(&mut self, text: Option<&str>) {
        self.choice(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    /// A digest: always as long.
    pub fn digest(&mut self, digest: Digest) {
        self.0.extend_from_slice(digest.bytes());
    }

    /// All that was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The digest of all that was written.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::of(&self.0)
    }
}
