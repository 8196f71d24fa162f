//! RFC 8785 canonical JSON and SHA-256: the bytes that digests are taken over.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// The canonical bytes of a value. Numbers must be those of I-JSON (see [`crate::extract`]).
///
/// # Errors
/// When the value has no JSON form: a map whose keys are not strings, NaN.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json_canonicalizer::to_vec(value)
}

/// SHA-256 of the canonical bytes, 64 hex digits.
///
/// # Errors
/// As [`to_bytes`].
pub fn sha256<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    Ok(sha256_hex(&to_bytes(value)?))
}

/// SHA-256 of bytes, 64 hex digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_spelling_do_not_matter() {
        let one: serde_json::Value =
            serde_json::from_str(r#"{"b":1.0,"a":[1e2,"\u00e9"]}"#).expect("JSON");
        let two = json!({"a": [100, "é"], "b": 1});
        assert_eq!(
            to_bytes(&one).expect("bytes"),
            r#"{"a":[100,"é"],"b":1}"#.as_bytes()
        );
        assert_eq!(sha256(&one).expect("hash"), sha256(&two).expect("hash"));
    }

    #[test]
    fn sha256_is_the_standard_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
    }
}
