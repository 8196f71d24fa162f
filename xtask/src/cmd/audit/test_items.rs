//! What only tests run: each item under `#[cfg(test)]` is dropped, and nothing after it. Where an
//! item ends is told by what it begins with, as in the Rust Reference, "Items" and "Match
//! expressions".

use super::lexer::{Kind, Token};

/// Without the attribute, further attributes of the same item, and the item.
pub(super) fn without(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_slice();
    while let Some(token) = rest.first() {
        if is_cfg_test(rest) {
            rest = &rest[attributes_length(rest)..];
            rest = &rest[item_length(rest)..];
        } else {
            kept.push(token.clone());
            rest = &rest[1..];
        }
    }
    kept
}

fn is_cfg_test(tokens: &[Token]) -> bool {
    let marks = [(0, '#'), (1, '['), (3, '('), (5, ')'), (6, ']')];
    let names = [(2, "cfg"), (4, "test")];
    marks
        .iter()
        .all(|&(index, mark)| is_mark(tokens, index, mark))
        && names
            .iter()
            .all(|&(index, text)| name(tokens, index) == Some(text))
}

/// Whether the token of this index is that mark.
pub(in crate::cmd) fn is_mark(tokens: &[Token], index: usize, mark: char) -> bool {
    tokens
        .get(index)
        .is_some_and(|token| token.kind == Kind::Mark(mark))
}

/// The name or keyword of this index, if it is one.
pub(in crate::cmd) fn name(tokens: &[Token], index: usize) -> Option<&str> {
    match &tokens.get(index)?.kind {
        Kind::Name(name) => Some(name),
        _ => None,
    }
}

/// `#[cfg(test)] #[derive(Debug)]`: all of them.
pub(in crate::cmd) fn attributes_length(tokens: &[Token]) -> usize {
    let mut length = 0;
    while is_mark(tokens, length, '#') {
        length += 1 + group_length(&tokens[length + 1..]);
    }
    length
}

/// From an opening bracket to behind the one that closes it.
pub(in crate::cmd) fn group_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']' | '}') if depth <= 1 => return index + 1,
            Kind::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// What ends an item, outside of brackets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The body's closing brace, or a semicolon: `fn`, `mod`, `impl`, a block.
    Body,
    /// A semicolon; braces are part of it: `use`, `const`, `let`.
    Semicolon,
    /// A comma or semicolon; the braces of a pattern or variant are part of it, the body of a match
    /// arm ends it: an arm, a field, a variant, an expression.
    Comma,
}

fn end_of_item(tokens: &[Token]) -> End {
    if is_mark(tokens, 0, '{') || is_mark(tokens, 1, '!') {
        return End::Body;
    }
    let mut index = 0;
    while let Some(word) = name(tokens, index) {
        match word {
            "pub" if is_mark(tokens, index + 1, '(') => {
                index += 1 + group_length(&tokens[index + 1..]);
            }
            "const" if name(tokens, index + 1).is_some_and(|next| next == "fn") => index += 1,
            "pub" | "async" | "unsafe" => index += 1,
            "use" | "const" | "static" | "type" | "let" => return End::Semicolon,
            "fn" | "mod" | "struct" | "enum" | "union" | "impl" | "trait" | "extern"
            | "macro_rules" | "if" | "for" | "while" | "loop" | "match" => return End::Body,
            _ => return End::Comma,
        }
    }
    End::Comma
}

/// Without its attributes.
pub(in crate::cmd) fn item_length(tokens: &[Token]) -> usize {
    let end = end_of_item(tokens);
    let mut index = 0;
    let mut in_arm = false;
    while let Some(token) = tokens.get(index) {
        match token.kind {
            Kind::Mark('{') => {
                let after = index + group_length(&tokens[index..]);
                // `Field { a } => { body }`: only the body ends the arm.
                if end == End::Body || in_arm && is_mark(tokens, index - 1, '>') {
                    return after + usize::from(in_arm && is_mark(tokens, after, ','));
                }
                index = after;
                continue;
            }
            Kind::Mark('(' | '[') => {
                index += group_length(&tokens[index..]);
                continue;
            }
            // Of what the item stands in.
            Kind::Mark(')' | ']' | '}') => return index,
            Kind::Mark(';') => return index + 1,
            Kind::Mark(',') if end == End::Comma => return index + 1,
            Kind::Mark('>') if end == End::Comma && index > 0 => {
                in_arm |= is_mark(tokens, index - 1, '=');
            }
            _ => {}
        }
        index += 1;
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::super::lexer::{Kind, tokens};

    /// The literals that are left.
    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let texts: Vec<String> = tokens(source)
            .into_iter()
            .filter_map(|token| match token.kind {
                Kind::Text(text) => Some(text),
                _ => None,
            })
            .collect();
        assert_eq!(texts, expected, "{source}");
    }

    #[test]
    fn items_end_at_their_body_or_semicolon() {
        check(r#"#[cfg(test)] mod tests { fn f() { "b" } } "c""#, &["c"]);
        check(r#"#[cfg(test)] mod tests; fn f() { "c" }"#, &["c"]);
        check(
            r#"#[cfg(test)] #[derive(Debug)] pub(crate) struct A<B, C>(B); "c""#,
            &["c"],
        );
        check(r#"#[cfg(test)] const fn f<A, B>() { "b" } "c""#, &["c"]);
        check(r#"#[cfg(test)] use a::{b, c}; "c""#, &["c"]);
        check(r#"#[cfg(test)] const A: B = B { c: "b" }; "c""#, &["c"]);
        check(
            r#"fn f() { #[cfg(test)] let a = B { c: "b" }; g("c") }"#,
            &["c"],
        );
        check(r#"fn f() { #[cfg(test)] { g("b") } g("c") }"#, &["c"]);
    }

    #[test]
    fn arms_fields_and_variants_end_at_their_comma() {
        check(
            r#"match a { #[cfg(test)] A => f("b"), B => f("c") } g("d");"#,
            &["c", "d"],
        );
        check(
            r#"match a { #[cfg(test)] A { b } => { f("b"); } B => f("c") }"#,
            &["c"],
        );
        check(
            r#"match a { B => f("c"), #[cfg(test)] A => f("b") } g("d");"#,
            &["c", "d"],
        );
        check(r#"A { #[cfg(test)] b: f("b"), c: "c" }"#, &["c"]);
        check(r#"enum A { #[cfg(test)] B { c: u8 }, C } "c""#, &["c"]);
    }
}
