//! Texts that Rust code puts together, each as one line with what is filled in between braces:
//! `format!("{}:{}", repository, tag)`, `repository + ":" + tag`, `[repository, tag].join(":")` and
//! `concat!` all come to `{repository}:{tag}`.

use std::ops::Range;

use super::reference::{Place, VERSION_WORDS, has_word, says_image};
use super::source::Source;

/// A text, the line where it begins, and the token.
pub(super) struct Template {
    pub(super) at: usize,
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) place: Place,
}

/// Names that say that something is an image or where it is kept.
const IMAGE_WORDS: [&str; 8] = [
    "image",
    "images",
    "name",
    "package",
    "reference",
    "registry",
    "repo",
    "repository",
];

/// Names that say only that; with them, a version is a tag as well.
const REPOSITORY_WORDS: [&str; 4] = ["image", "images", "repo", "repository"];

/// Names that say that what is called like an image is where it can be found.
const ADDRESS_WORDS: [&str; 6] = ["dir", "file", "folder", "path", "uri", "url"];

/// Methods that change no text.
const SAME_TEXT: [&str; 16] = [
    "String",
    "as_ref",
    "as_str",
    "borrow",
    "clone",
    "display",
    "env",
    "expect",
    "from",
    "into",
    "option_env",
    "self",
    "to_owned",
    "to_string",
    "unwrap",
    "var",
];

/// Every text of a file, by place.
pub(super) fn templates(source: &Source) -> Vec<Template> {
    (0..source.len())
        .filter_map(|at| {
            let text = literal(source, at)
                .or_else(|| joined(source, at))
                .or_else(|| sum(source, at))?;
            let line = source.line(at);
            let place = place(source, at);
            Some(Template {
                at,
                line,
                text,
                place,
            })
        })
        .collect()
}

/// An image is named where the variable, constant, field or function that a text goes to is called
/// like one: `let image = ..`, `image: ..`, `with_image(..)`.
fn place(source: &Source, at: usize) -> Place {
    let bounds = [';', '{', '}', ','];
    let start = (at.saturating_sub(20)..at)
        .rev()
        .find(|&index| bounds.iter().any(|&mark| source.is_mark(index, mark)))
        .map_or(at.saturating_sub(20), |bound| bound + 1);
    let is_named = |index: usize| {
        let is_path = source.is_mark(index + 1, ':') && source.is_mark(index + 2, ':');
        let takes = [':', '=', '('];
        let takes = takes.iter().any(|&mark| source.is_mark(index + 1, mark));
        takes && !is_path && source.name(index).is_some_and(says_image)
    };
    match (start..at).any(is_named) {
        true => Place::Image,
        false => Place::Any,
    }
}

/// Whether the names in a text say that it is an image reference: `{repository}:{tag}`.
pub(super) fn is_reference(text: &str) -> bool {
    text.match_indices("}:{").any(|(middle, _)| {
        let left = &text[..middle];
        // What an engine is asked to print: `{{.Repository}}:{{.Tag}}`.
        if left.ends_with('}') {
            return false;
        }
        let left = &left[left.rfind('{').map_or(0, |open| open + 1)..];
        let right = &text[middle + 3..];
        let right = &right[..right.find('}').unwrap_or(right.len())];
        let left_is = |candidates: &[&str]| has_word(left, candidates);
        has_word(right, &["tag"]) && left_is(&IMAGE_WORDS)
            || has_word(right, &VERSION_WORDS)
                && left_is(&REPOSITORY_WORDS)
                && !left_is(&ADDRESS_WORDS)
    })
}

/// A literal; what a formatting macro fills in is told by name.
fn literal(source: &Source, at: usize) -> Option<String> {
    let text = source.text(at)?;
    let arguments = formatted(source, at).unwrap_or_default();
    Some(filled(text, &arguments))
}

/// The arguments behind the literal at `at` where it stands in a macro.
fn formatted(source: &Source, at: usize) -> Option<Vec<(Option<&str>, String)>> {
    let open = (0..at)
        .rev()
        .take(200)
        .find(|&open| source.is_mark(open, '(') && source.partner(open) > at)?;
    if !source.is_mark(open.checked_sub(1)?, '!') {
        return None;
    }
    let elements = source.elements(open + 1..source.partner(open));
    let arguments = elements.into_iter().filter(|element| element.start > at);
    Some(
        arguments
            .map(|element| {
                let is_named = source.is_mark(element.start + 1, '=');
                let name = source.name(element.start).filter(|_| is_named);
                (name, names(source, element))
            })
            .collect(),
    )
}

/// Puts the arguments' names where the macro would put their values, as `std::fmt` says.
fn filled(text: &str, arguments: &[(Option<&str>, String)]) -> String {
    let mut result = String::new();
    let mut positions = arguments.iter().filter(|(name, _)| name.is_none());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        result.push_str(&rest[..open]);
        rest = &rest[open + 1..];
        // `{{` is a brace.
        if let Some(after) = rest.strip_prefix('{') {
            result.push_str("{{");
            rest = after;
            continue;
        }
        let Some(close) = rest.find('}') else {
            result.push('{');
            break;
        };
        let name = rest[..close].split(':').next().unwrap_or_default();
        let value = match name {
            "" => positions.next(),
            _ => name.parse().map_or_else(
                |_| arguments.iter().find(|(own, _)| *own == Some(name)),
                |position: usize| arguments.get(position),
            ),
        };
        let value = value.map_or(name, |(_, value)| value);
        result.push_str(&format!("{{{value}}}"));
        rest = &rest[close + 1..];
    }
    result.push_str(rest);
    result
}

/// `concat!(a, b)`, `[a, b].concat()`, `[a, b].join(":")`.
fn joined(source: &Source, at: usize) -> Option<String> {
    let call = source.call(at)?;
    let (parts, between) = match call.name {
        "concat" if source.is_mark(at + 1, '!') => (call.inside, String::new()),
        "concat" | "join" => {
            let list = at.checked_sub(2).filter(|_| source.is_mark(at - 1, '.'))?;
            if !source.is_mark(list, ']') {
                return None;
            }
            let between = call.inside.clone().find_map(|at| source.text(at));
            (
                source.partner(list) + 1..list,
                between.unwrap_or_default().to_owned(),
            )
        }
        _ => return None,
    };
    let parts: Vec<String> = source
        .elements(parts)
        .into_iter()
        .map(|part| operand(source, part))
        .collect();
    Some(parts.join(&between))
}

/// `a + ":" + b`, told at its first sign.
fn sum(source: &Source, at: usize) -> Option<String> {
    if !source.is_mark(at, '+') || at == 0 {
        return None;
    }
    let start = source.chain_start(at - 1);
    if start > 0 && source.is_mark(start - 1, '+') {
        return None;
    }
    let mut text = operand(source, start..at);
    let mut sign = at;
    while source.is_mark(sign, '+') {
        let end = source.chain_end(sign + 1);
        text.push_str(&operand(source, sign + 1..end));
        sign = end;
    }
    Some(text)
}

/// A literal, or names between braces.
fn operand(source: &Source, range: Range<usize>) -> String {
    let is_variable = |at: usize| {
        source
            .name(at)
            .is_some_and(|name| ["env", "option_env", "var"].contains(&name))
    };
    let text = range.clone().find(|&at| source.text(at).is_some());
    match text {
        Some(at) if !range.clone().any(is_variable) => literal(source, at).unwrap_or_default(),
        _ => format!("{{{}}}", names(source, range)),
    }
}

/// The names of an expression, and of the environment variables that it reads.
fn names(source: &Source, range: Range<usize>) -> String {
    range
        .filter_map(|at| source.name(at).or_else(|| source.text(at)))
        .filter(|name| !SAME_TEXT.contains(name))
        .collect::<Vec<_>>()
        .join(".")
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::{is_reference, templates};

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let found = templates(&Source::new(source));
        let texts: Vec<&str> = found
            .iter()
            .map(|template| template.text.as_str())
            .collect();
        assert!(texts.contains(&expected), "{source}: {texts:?}");
    }

    #[test]
    fn every_way_comes_to_one_text() {
        let expected = "{repository}:{tag}";
        for source in [
            r#"format!("{repository}:{tag}")"#,
            r#"format!("{}:{}", repository, &tag)"#,
            r#"format!("{1}:{0}", tag, self.repository.as_str())"#,
            r#"let a = repository.to_owned() + ":" + &tag;"#,
            r#"String::from(repository) + ":" + tag.as_str()"#,
            r#"[repository, tag].join(":")"#,
            r#"vec![repository.clone(), tag.to_owned()].join(":")"#,
            r#"[repository, ":", tag].concat()"#,
        ] {
            check(source, expected);
        }
        check(
            r#"concat!("localhost/", "a", ":", env!("TAG"))"#,
            "localhost/a:{TAG}",
        );
        // Both names may say what it is.
        check(
            r#"format!("{a}:{b:>8}", b = tag, a = repository)"#,
            "{a.repository}:{b.tag}",
        );
        check(r#"f(x, "a:".to_owned() + &g(tag)?, y)"#, "a:{g.tag}");
    }

    #[test]
    fn names_tell_references() {
        for text in [
            "{repo}:{tag}",
            "{registry}/{image_name}:{image.tag}",
            "x {repository}:{VERSION}",
        ] {
            assert!(is_reference(text), "{text}");
        }
        for text in [
            "{host}:{port}",
            "{path}:{line}",
            "{name}:{version}",
            "{group}:{tag}",
            "{image}: {tag}",
            "{repository}::{tag}",
            "{{.Repository}}:{{.Tag}}",
        ] {
            assert!(!is_reference(text), "{text}");
        }
    }
}
