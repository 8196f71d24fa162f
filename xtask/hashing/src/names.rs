//! Questions about the name of a file that are asked for each of thousands, more than once.

/// The folder that a path lies in; of a name alone it is an empty text, and that has none.
#[must_use]
pub fn folder_above(path: &str) -> Option<&str> {
    match path.as_bytes().iter().rposition(|byte| *byte == b'/') {
        Some(end) => Some(&path[..end]),
        None => (!path.is_empty()).then_some(""),
    }
}

/// It was decoded from what is not UTF-8.
#[must_use]
pub fn is_decoded_lossily(path: &str) -> bool {
    !path.is_ascii() && path.contains(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::{folder_above, is_decoded_lossily};

    #[test]
    fn folders_end_with_the_root() {
        assert_eq!(folder_above("a/b/c"), Some("a/b"));
        assert_eq!(folder_above("a"), Some(""));
        assert_eq!(folder_above(""), None);
    }

    #[test]
    fn what_is_not_utf8_is_seen() {
        let decoded = String::from_utf8_lossy(b"caf\xe9");
        assert!(is_decoded_lossily(&decoded));
        assert!(!is_decoded_lossily("caf\u{e9}") && !is_decoded_lossily("cafe"));
    }
}
