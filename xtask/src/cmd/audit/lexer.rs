//! Rust source as the audit sees it: identifiers, string literals and punctuation, each with its
//! line; comments and what stands under `#[cfg(test)]` are left out. It understands no more of the
//! language than that.

use super::test_items;

/// A piece of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cmd) struct Token {
    /// Counted from 1.
    pub(in crate::cmd) line: usize,
    pub(in crate::cmd) kind: Kind,
}

/// What a piece is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cmd) enum Kind {
    /// A name or keyword.
    Name(String),
    /// The text of a string literal, escapes as they are written.
    Text(String),
    /// A character literal, which is no text where texts are looked for.
    Character(String),
    /// Anything else.
    Mark(char),
}

/// The tokens of a file that a run can execute.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    test_items::without(Lexer::new(source).collect())
}

/// All tokens of a file, those that only tests run as well.
pub(in crate::cmd) fn all_tokens(source: &str) -> Vec<Token> {
    Lexer::new(source).collect()
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lexer<'a> {
    const fn new(source: &'a str) -> Self {
        Self {
            rest: source,
            line: 1,
        }
    }

    /// Takes `length` bytes and counts their lines.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn skip_comment(&mut self) -> bool {
        let length = if self.rest.starts_with("//") {
            self.rest.find('\n').unwrap_or(self.rest.len())
        } else if self.rest.starts_with("/*") {
            block_comment_length(self.rest)
        } else {
            return false;
        };
        self.take(length);
        true
    }

    /// A string literal of any kind, without its quotes.
    fn text(&mut self) -> Option<&'a str> {
        let prefix = self
            .rest
            .find(|letter: char| !matches!(letter, 'b' | 'c' | 'r'))?;
        let hashes = self.rest[prefix..]
            .bytes()
            .take_while(|&byte| byte == b'#')
            .count();
        let open = prefix + hashes;
        if prefix > 2 || !self.rest[open..].starts_with('"') {
            return None;
        }
        let raw = self.rest[..prefix].contains('r');
        if hashes > 0 && !raw {
            return None;
        }
        let body = &self.rest[open + 1..];
        let length = if raw {
            let close = format!("\"{}", "#".repeat(hashes));
            body.find(&close).unwrap_or(body.len())
        } else {
            quoted_length(body, b'"')
        };
        let all = (open + 1 + length + 1 + hashes).min(self.rest.len());
        let text = &body[..length];
        self.take(all);
        Some(text)
    }

    /// `'a'`, `'\n'`; a lifetime is no character.
    fn character(&mut self) -> Option<&'a str> {
        let body = self.rest.strip_prefix('\'')?;
        let mut letters = body.char_indices();
        let ((_, first), (after, second)) = (letters.next()?, letters.next()?);
        let length = match (first, second) {
            ('\\', _) => quoted_length(body, b'\''),
            (_, '\'') => after,
            _ => return None,
        };
        self.take((1 + length + 1).min(self.rest.len()));
        Some(&body[..length])
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let first = self.rest.chars().next()?;
            if first.is_whitespace() {
                self.take(first.len_utf8());
                continue;
            }
            if self.skip_comment() {
                continue;
            }
            let line = self.line;
            if let Some(character) = self.character() {
                let kind = Kind::Character(character.to_owned());
                return Some(Token { line, kind });
            }
            if let Some(text) = self.text() {
                let kind = Kind::Text(text.to_owned());
                return Some(Token { line, kind });
            }
            let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
            let kind = if is_name(first) {
                let length = self.rest.find(|letter| !is_name(letter));
                Kind::Name(self.take(length.unwrap_or(self.rest.len())).to_owned())
            } else {
                self.take(first.len_utf8());
                Kind::Mark(first)
            };
            return Some(Token { line, kind });
        }
    }
}

/// Up to the closing quote, or to the end.
fn quoted_length(body: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (index, byte) in body.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return index,
            _ => {}
        }
    }
    body.len()
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut index) = (0_usize, 0);
    while index + 1 < bytes.len() {
        match &bytes[index..index + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
        if depth == 0 {
            return index;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::{Kind, tokens};

    #[track_caller]
    fn check(source: &str, expected: &[(usize, &str)]) {
        let texts: Vec<(usize, String)> = tokens(source)
            .into_iter()
            .filter_map(|token| match token.kind {
                Kind::Text(text) => Some((token.line, text)),
                _ => None,
            })
            .collect();
        let expected: Vec<(usize, String)> = expected
            .iter()
            .map(|&(line, text)| (line, text.to_owned()))
            .collect();
        assert_eq!(texts, expected, "{source}");
    }

    #[test]
    fn finds_literals_of_every_kind() {
        check(r#"let a = "x";"#, &[(1, "x")]);
        check("let a =\n  b\"x\\\"y\";", &[(2, "x\\\"y")]);
        check(
            r###"r#"a "quoted" b"#, "c""###,
            &[(1, "a \"quoted\" b"), (1, "c")],
        );
        check("\"a\n b\"; \"c\"", &[(1, "a\n b"), (2, "c")]);
    }

    #[test]
    fn comments_lifetimes_and_characters_are_no_literals() {
        check("// \"x\"\n/* \"y\" /* \"z\" */ */ \"a\"", &[(2, "a")]);
        check(r#"fn f<'a>(x: &'a str) -> char { '"' } "b""#, &[(1, "b")]);
        check(r#"let quote = '\''; "b""#, &[(1, "b")]);
    }

    #[test]
    fn what_only_tests_run_is_left_out() {
        check(
            "\"a\"\n#[cfg(test)]\nmod tests { fn f() { \"b\" } }\n\"c\"",
            &[(1, "a"), (4, "c")],
        );
        check("#[cfg(test)]\nmod tests;\n\"c\"", &[(3, "c")]);
    }
}
