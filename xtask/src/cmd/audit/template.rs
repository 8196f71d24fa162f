//! Texts that Rust code puts together, each as one line with what is filled in between braces:
//! `format!("{}:{}", repository, tag)`, `repository + ":" + tag`, `[repository, tag].join(":")` and
//! `concat!` all come to `{repository}:{tag}`.

use std::ops::Range;

use super::reference::{Names, Place, VERSION_WORDS, has_word, is_tag_like, says_image};
use super::source::Source;

mod bound;

use self::bound::{Bound, plain};

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
    let bound = Bound::of(source);
    (0..source.len())
        .filter_map(|at| {
            let text = literal(source, &bound, at)
                .or_else(|| joined(source, &bound, at))
                .or_else(|| grown(source, &bound, at))
                .or_else(|| sum(source, &bound, at))?;
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

/// Whether an image of any name gets a tag that stands there: `{image}:latest`.
pub(super) fn is_tagged(text: &str, names: &Names) -> bool {
    text.match_indices("}:").any(|(middle, _)| {
        let left = &text[..middle];
        let left = &left[left.rfind('{').map_or(0, |open| open + 1)..];
        let is_end = |letter: char| letter.is_whitespace() || "\"'`,;)".contains(letter);
        let tag = text[middle + 2..].split(is_end).next().unwrap_or_default();
        has_word(left, &REPOSITORY_WORDS)
            && !has_word(left, &ADDRESS_WORDS)
            && is_tag_like(tag, names)
    })
}

/// A literal; what a formatting macro fills in is told by name.
fn literal(source: &Source, bound: &Bound<'_>, at: usize) -> Option<String> {
    let text = source.text(at)?;
    let arguments = formatted(source, bound, at);
    let is_macro = arguments.is_some();
    let named = |name: &str| match bound.get(name, at).filter(|_| is_macro) {
        Some((_, text)) => text.to_owned(),
        None => format!("{{{name}}}"),
    };
    Some(filled(text, &arguments.unwrap_or_default(), named))
}

/// The arguments behind the literal at `at` where it stands in a macro.
fn formatted<'a>(
    source: &'a Source,
    bound: &Bound<'_>,
    at: usize,
) -> Option<Vec<(Option<&'a str>, String)>> {
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
                let value = match is_named {
                    // The name may say what it is as well.
                    true => format!("{{{}}}", names(source, element)),
                    false => operand(source, bound, element),
                };
                (name, value)
            })
            .collect(),
    )
}

/// Puts the arguments where the macro would put their values, as `std::fmt` says, and what `named`
/// gives where a variable is named in the text.
fn filled(
    text: &str,
    arguments: &[(Option<&str>, String)],
    named: impl Fn(&str) -> String,
) -> String {
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
        let value = value.map(|(_, value)| value.clone());
        result.push_str(&value.unwrap_or_else(|| named(name)));
        rest = &rest[close + 1..];
    }
    result.push_str(rest);
    result
}

/// `concat!(a, b)`, `[a, b].concat()`, `[a, b].join(":")`.
fn joined(source: &Source, bound: &Bound<'_>, at: usize) -> Option<String> {
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
        .map(|part| operand(source, bound, part))
        .collect();
    Some(parts.join(&between))
}

/// `a + ":" + b`, told at its first sign.
fn sum(source: &Source, bound: &Bound<'_>, at: usize) -> Option<String> {
    if !source.is_mark(at, '+') || at == 0 {
        return None;
    }
    let start = source.chain_start(at - 1);
    if start > 0 && source.is_mark(start - 1, '+') {
        return None;
    }
    let mut text = operand(source, bound, start..at);
    let mut sign = at;
    while source.is_mark(sign, '+') {
        let end = source.chain_end(sign + 1);
        text.push_str(&operand(source, bound, sign + 1..end));
        sign = end;
    }
    Some(text)
}

/// `image.push(':')`, `image.push_str(tag)`, `image += tag`: what a variable that was bound to a
/// text comes to, told where it first grows. One that ends in a colon is told where it is bound.
fn grown(source: &Source, bound: &Bound<'_>, at: usize) -> Option<String> {
    let (variable, _) = appended(source, at)?;
    let (bound_at, text) = bound.get(variable, at)?;
    let is_same = |at: usize| appended(source, at).filter(|(name, _)| *name == variable);
    if text.ends_with(':') || (bound_at..at).any(|at| is_same(at).is_some()) {
        return None;
    }
    let function = source.function_of(at);
    let parts = (at..source.len())
        .take_while(|&at| source.function_of(at) == function)
        .filter_map(is_same)
        .map(|(_, part)| operand(source, bound, part));
    Some(text.to_owned() + &parts.collect::<String>())
}

/// The variable that grows at `at`, and by what.
fn appended(source: &Source, at: usize) -> Option<(&str, Range<usize>)> {
    if source.is_mark(at, '+') && source.is_mark(at + 1, '=') {
        let variable = source.name(at.checked_sub(1)?)?;
        return Some((variable, at + 2..source.statement(at).end));
    }
    let call = source.call(at)?;
    let variable = source.name(at.checked_sub(2)?)?;
    let grows = source.is_mark(at - 1, '.') && ["push", "push_str"].contains(&call.name);
    grows.then_some((variable, call.inside))
}

/// A literal, the text that a name is bound to, or names between braces.
fn operand(source: &Source, bound: &Bound<'_>, range: Range<usize>) -> String {
    let is_variable = |at: usize| {
        source
            .name(at)
            .is_some_and(|name| ["env", "option_env", "var"].contains(&name))
    };
    if let Some(text) = plain(source, range.clone()) {
        return text.to_owned();
    }
    let has_macro = range.clone().any(|at| source.is_mark(at, '!'));
    let text = range.clone().find(|&at| source.text(at).is_some());
    if let Some(at) = text
        && has_macro
        && !range.clone().any(is_variable)
    {
        return literal(source, bound, at).unwrap_or_default();
    }
    let is_field = range.clone().any(|at| source.name(at) == Some("self"));
    let names = names(source, range.clone());
    match bound.get(&names, range.start).filter(|_| !is_field) {
        Some((_, text)) => text.to_owned(),
        None => format!("{{{names}}}"),
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
