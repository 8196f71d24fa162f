//! Keys and values of a manifest, from YAML or JSON, each with its line and how deep it stands.
//! YAML is read line by line; anchors and multi-line scalars are not followed.

use super::lexer::{Kind, Token};

/// A key with its value; the value is empty where a block follows.
pub(super) struct Entry {
    pub(super) line: usize,
    /// What stands deeper than its block's key belongs to it.
    pub(super) depth: usize,
    pub(super) key: String,
    pub(super) value: String,
}

/// Of a line of YAML, without its comment.
pub(super) fn of_yaml_line(line: usize, text: &str) -> Vec<Entry> {
    let indentation = text.len() - text.trim_start_matches([' ', '-']).len();
    let mut braces = 0;
    let mut entries = Vec::new();
    // A template's braces, `{{ .Values.tag }}` or `${TAG}`, open no mapping.
    let text = text
        .replace("{{", "$(")
        .replace("}}", ")")
        .replace("${", "$(");
    let is_end = |letter: char| matches!(letter, '{' | '}' | ',');
    for part in text.split_inclusive(is_end) {
        if let Some((key, value)) = part.trim_end_matches(is_end).split_once(':') {
            entries.push(Entry {
                line,
                depth: indentation + braces,
                key: bare(key.trim().trim_start_matches("- ")),
                value: bare(value),
            });
        }
        match part.chars().last() {
            Some('{') => braces += 1,
            Some('}') => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    entries
}

fn bare(text: &str) -> String {
    text.trim().trim_matches(['"', '\'']).to_owned()
}

/// Of a JSON document, whose tokens are those of Rust as far as it matters here.
pub(super) fn of_json(tokens: &[Token]) -> Vec<Entry> {
    let mut depth = 0_usize;
    let mut entries = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let next = |offset: usize| tokens.get(index + offset).map(|token| &token.kind);
        match &token.kind {
            Kind::Mark('{' | '[') => depth += 1,
            Kind::Mark('}' | ']') => depth = depth.saturating_sub(1),
            Kind::Text(key) if next(1) == Some(&Kind::Mark(':')) => entries.push(Entry {
                line: token.line,
                depth,
                key: key.clone(),
                value: match next(2) {
                    Some(Kind::Text(value)) => value.clone(),
                    _ => String::new(),
                },
            }),
            _ => {}
        }
    }
    entries
}
