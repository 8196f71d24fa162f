//! What a child writes, taken apart: lines that stay, and what it drew and meant to draw over (all
//! that ends with a carriage return alone). A log gets the lines alone, without what steers a terminal.

use std::borrow::Cow;

/// A line that never ends is passed on in parts.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// With its end, unless it is the last of the stream or too long.
    Line(Vec<u8>),
    /// How it stands, as text.
    Progress(String),
}

/// Takes a stream apart, in whatever portions it comes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The pieces that are whole now.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.rest.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        let mut from = 0;
        while let Some(length) = self.rest[from..]
            .iter()
            .position(|&byte| byte == b'\n' || byte == b'\r')
        {
            let end = from + length;
            let part = &self.rest[from..end];
            match (self.rest[end], self.rest.get(end + 1)) {
                (b'\n', _) => {
                    pieces.push(line(&self.rest[from..=end]));
                    from = end + 1;
                }
                (_, Some(b'\n')) => {
                    pieces.push(line(&[part, b"\n"].concat()));
                    from = end + 2;
                }
                (_, Some(_)) => {
                    pieces.extend(progress(part));
                    from = end + 1;
                }
                // Shown now, and kept: the end of its line may be on its way.
                (_, None) => {
                    pieces.extend(progress(part));
                    break;
                }
            }
        }
        self.rest.drain(..from);
        if self.rest.len() > LINE_BYTES_MAX {
            pieces.push(line(&std::mem::take(&mut self.rest)));
        }
        pieces
    }

    /// What is left when the stream has ended.
    pub(super) fn end(&mut self) -> Option<Piece> {
        let rest = std::mem::take(&mut self.rest);
        let drawn_over = rest.is_empty() || rest.ends_with(b"\r");
        (!drawn_over).then(|| line(&rest))
    }
}

/// Without the order to erase what stood there: that never got to the terminal.
fn line(bytes: &[u8]) -> Piece {
    const ERASE_LINE: &[u8] = b"\x1b[K";
    let mut bytes = bytes;
    while let Some(rest) = bytes.strip_prefix(ERASE_LINE) {
        bytes = rest;
    }
    Piece::Line(bytes.to_vec())
}

fn progress(bytes: &[u8]) -> Option<Piece> {
    let text = String::from_utf8_lossy(bytes);
    let text = console::strip_ansi_codes(&text);
    // The activity that says it has this word already.
    let text = text.trim().trim_start_matches("Building ");
    (!text.is_empty()).then(|| Piece::Progress(text.to_owned()))
}

/// A line without what steers a terminal.
pub(super) fn plain(line: &[u8]) -> Cow<'_, [u8]> {
    if !line.contains(&0x1b) {
        return Cow::Borrowed(line);
    }
    let text = String::from_utf8_lossy(line);
    Cow::Owned(console::strip_ansi_codes(&text).into_owned().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Lines, Piece, plain};

    fn read(portions: &[&[u8]]) -> Vec<Piece> {
        let mut lines = Lines::default();
        let mut pieces: Vec<Piece> = portions
            .iter()
            .flat_map(|portion| lines.take(portion))
            .collect();
        pieces.extend(lines.end());
        pieces
    }

    fn said(text: &str) -> Piece {
        Piece::Line(text.as_bytes().to_vec())
    }

    fn drawn(text: &str) -> Piece {
        Piece::Progress(text.to_owned())
    }

    #[test]
    fn what_cargo_draws_is_told_apart_from_what_it_says() {
        let all = "\x1b[1m\x1b[92m   Compiling\x1b[0m itoa\n\
            \x1b[1m\x1b[96m    Building\x1b[0m [==>  ] 1/3: itoa\r\x1b[K\x1b[33mwarning\x1b[0m: x\n";
        let whole = read(&[all.as_bytes()]);
        assert_eq!(
            whole,
            [
                said("\x1b[1m\x1b[92m   Compiling\x1b[0m itoa\n"),
                drawn("[==>  ] 1/3: itoa"),
                said("\x1b[33mwarning\x1b[0m: x\n"),
            ]
        );
        let Piece::Line(first) = &whole[0] else {
            panic!("{whole:?}");
        };
        assert_eq!(plain(first).as_ref(), b"   Compiling itoa\n");
    }

    #[test]
    fn the_lines_are_the_same_in_whatever_portions_they_come() {
        let all = b"one\n\x1b[96mBuilding\x1b[0m 1/3\r\x1b[Ktwo\r\nthree\r";
        for cut in 0..all.len() {
            let mut pieces = read(&[&all[..cut], &all[cut..]]);
            pieces.retain(|piece| matches!(piece, Piece::Line(_)));
            assert_eq!(pieces, [said("one\n"), said("two\n")], "cut at {cut}");
        }
        assert_eq!(read(&[b"a", b"b"]), [said("ab")]);
    }

    #[test]
    fn how_it_stands_is_told_before_the_next_portion_comes() {
        assert_eq!(Lines::default().take(b"1/3\r"), [drawn("1/3")]);
    }

    #[test]
    fn a_line_that_never_ends_is_passed_on() {
        let pieces = Lines::default().take(&vec![b'x'; super::LINE_BYTES_MAX + 1]);
        assert_eq!(pieces.len(), 1);
    }
}
