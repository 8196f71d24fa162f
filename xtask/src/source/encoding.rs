//! Bytes for hashing: every text has its length before it and every list its count, so that no two
//! different values are written alike.

use crate::digest::Digest;

/// Takes values one after the other.
#[derive(Debug)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    /// Begins with what is encoded and the version of how.
    pub(crate) fn new(purpose: &str) -> Self {
        let mut encoder = Self(Vec::new());
        encoder.text(purpose);
        encoder
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u64).to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn choice(&mut self, choice: u8) {
        self.0.push(choice);
    }

    pub(crate) fn optional(&mut self, text: Option<&str>) {
        self.choice(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    pub(crate) fn digest(&mut self, digest: Digest) {
        self.0.extend_from_slice(digest.bytes());
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::of(&self.0)
    }
}
