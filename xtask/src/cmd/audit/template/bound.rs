//! The texts that have a name: `let image = "localhost/datastorage"`. A name that is bound to
//! anything but one text stands for nothing, and none is followed out of its function; constants
//! are known in the whole file.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::source::Source;

/// Methods and functions that change no text.
const SAME_TEXT: [&str; 11] = [
    "String",
    "as_ref",
    "as_str",
    "borrow",
    "clone",
    "from",
    "into",
    "mut",
    "str",
    "to_owned",
    "to_string",
];

/// A longer text is no part of a reference.
const LENGTH_MAX: usize = 128;

/// Texts by name.
pub(super) struct Bound<'a> {
    source: &'a Source,
    by_name: BTreeMap<&'a str, Vec<Binding<'a>>>,
}

struct Binding<'a> {
    at: usize,
    /// `None` for a constant.
    function: Option<usize>,
    text: Option<&'a str>,
}

impl<'a> Bound<'a> {
    pub(super) fn of(source: &'a Source) -> Self {
        let mut by_name: BTreeMap<&str, Vec<Binding<'_>>> = BTreeMap::new();
        for at in 0..source.len() {
            let Some(word @ ("let" | "const" | "static")) = source.name(at) else {
                continue;
            };
            let name = at + 1 + usize::from(source.name(at + 1) == Some("mut"));
            let Some(name) = source.name(name) else {
                continue;
            };
            let statement = source.statement(at);
            let equals = statement.clone().find(|&at| source.is_mark(at, '='));
            let text = equals.and_then(|equals| plain(source, equals + 1..statement.end));
            by_name.entry(name).or_default().push(Binding {
                at,
                function: (word == "let").then(|| source.function_of(at)),
                text,
            });
        }
        Self { source, by_name }
    }

    /// The text that a name stands for at `at`, and where it was bound.
    pub(super) fn get(&self, name: &str, at: usize) -> Option<(usize, &'a str)> {
        let function = self.source.function_of(at);
        let is_known = |binding: &&Binding<'_>| match binding.function {
            Some(own) => own == function && binding.at < at,
            None => true,
        };
        let binding = self.by_name.get(name)?.iter().rev().find(is_known)?;
        Some((binding.at, binding.text?))
    }
}

/// The text of an expression that is one literal and nothing that changes it.
pub(super) fn plain(source: &Source, range: Range<usize>) -> Option<&str> {
    let mut literals = range.clone().filter_map(|at| source.literal(at));
    let text = literals.next().filter(|_| literals.next().is_none())?;
    let is_part = |letter: char| !letter.is_whitespace() && !"{}".contains(letter);
    let is_same = |at: usize| source.name(at).is_none_or(|name| SAME_TEXT.contains(&name));
    let is_plain = !range.clone().any(|at| source.is_mark(at, '!'))
        && range.clone().all(is_same)
        && text.len() <= LENGTH_MAX
        && text.chars().all(is_part);
    is_plain.then_some(text)
}
