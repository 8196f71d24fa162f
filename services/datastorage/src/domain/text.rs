//! Bounds of text fields. What people and other services send stays within what an index holds and
//! a log line shows.

use common::problem::{Answer, Problem};

/// Longest name of a thing in Kubernetes.
pub(crate) const NAME_BYTES_MAX: usize = 253;
/// Longest reason or message for people.
pub(crate) const SENTENCE_BYTES_MAX: usize = 4096;

/// Not empty, not too long, nothing that does not print.
pub(crate) fn name(field: &str, value: &str) -> Answer<()> {
    sentence(field, value, NAME_BYTES_MAX)
}

/// As [`name`], and it may be absent.
pub(crate) fn optional_name(field: &str, value: Option<&str>) -> Answer<()> {
    value.map_or(Ok(()), |value| name(field, value))
}

/// Text for people.
pub(crate) fn optional_sentence(field: &str, value: Option<&str>) -> Answer<()> {
    value.map_or(Ok(()), |value| sentence(field, value, SENTENCE_BYTES_MAX))
}

/// `a-z`, `0-9` and what `also` holds; not empty.
pub(crate) fn word(field: &str, value: &str, also: &str, bytes_max: usize) -> Answer<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c);
    if value.is_empty() || value.len() > bytes_max || !value.chars().all(fits) {
        return Err(Problem::bad_request(format!(
            "{field}: 1 to {bytes_max} of a-z, 0-9 and `{also}` are needed"
        )));
    }
    Ok(())
}

/// 64 lower case hex digits.
pub(crate) fn sha256(field: &str, value: &str) -> Answer<()> {
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if value.len() != 64 || !value.bytes().all(is_hex) {
        return Err(Problem::bad_request(format!(
            "{field}: 64 lower case hex digits are needed"
        )));
    }
    Ok(())
}

fn sentence(field: &str, value: &str, bytes_max: usize) -> Answer<()> {
    if value.trim().is_empty() {
        return Err(Problem::bad_request(format!("{field}: is empty")));
    }
    if value.len() > bytes_max {
        return Err(Problem::bad_request(format!(
            "{field}: longer than {bytes_max} bytes"
        )));
    }
    if value
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        return Err(Problem::bad_request(format!(
            "{field}: holds a control character"
        )));
    }
    Ok(())
}
