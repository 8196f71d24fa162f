//! Tokens with their brackets: which calls a file makes, with what arguments, one after the other
//! on what. It knows no types; names are all it goes by.

use std::ops::Range;

use super::lexer::{self, Kind, Token};

/// The tokens of a file.
pub(super) struct Source {
    tokens: Vec<Token>,
    /// For each bracket, the one that belongs to it; itself where there is none.
    partners: Vec<usize>,
    /// For each token, how many functions begin up to it.
    functions: Vec<usize>,
}

/// A call, of a function, a method or a macro.
pub(super) struct Call<'a> {
    /// Without path.
    pub(super) name: &'a str,
    /// The token that is its name.
    pub(super) at: usize,
    /// What stands in its brackets.
    pub(super) inside: Range<usize>,
}

impl Source {
    /// What a run can execute of a file.
    pub(super) fn new(text: &str) -> Self {
        let tokens = lexer::tokens(text);
        let mut partners: Vec<usize> = (0..tokens.len()).collect();
        let mut open = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::Mark('(' | '[' | '{') => open.push(index),
                Kind::Mark(')' | ']' | '}') => {
                    if let Some(start) = open.pop() {
                        partners[start] = index;
                        partners[index] = start;
                    }
                }
                _ => {}
            }
        }
        let functions = tokens
            .iter()
            .scan(0, |count, token| {
                *count += usize::from(token.kind == Kind::Name("fn".to_owned()));
                Some(*count)
            })
            .collect();
        Self {
            tokens,
            partners,
            functions,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn line(&self, index: usize) -> usize {
        self.tokens.get(index).map_or(0, |token| token.line)
    }

    pub(super) fn name(&self, index: usize) -> Option<&str> {
        match &self.tokens.get(index)?.kind {
            Kind::Name(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn text(&self, index: usize) -> Option<&str> {
        match &self.tokens.get(index)?.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A string or character literal.
    pub(super) fn literal(&self, index: usize) -> Option<&str> {
        match &self.tokens.get(index)?.kind {
            Kind::Text(text) | Kind::Character(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_mark(&self, index: usize, mark: char) -> bool {
        self.tokens
            .get(index)
            .is_some_and(|token| token.kind == Kind::Mark(mark))
    }

    /// The bracket that belongs to the one at `index`.
    pub(super) fn partner(&self, index: usize) -> usize {
        self.partners[index]
    }

    fn opens(&self, index: usize) -> bool {
        ['(', '[', '{']
            .iter()
            .any(|&mark| self.is_mark(index, mark))
    }

    fn closes(&self, index: usize) -> bool {
        [')', ']', '}']
            .iter()
            .any(|&mark| self.is_mark(index, mark))
    }

    /// A call whose name stands at `at`: `f(..)`, `a.f(..)`, `f!(..)`, `f![..]`.
    pub(super) fn call(&self, at: usize) -> Option<Call<'_>> {
        let name = self.name(at)?;
        let open = at + 1 + usize::from(self.is_mark(at + 1, '!'));
        let is_call = self.is_mark(open, '(') || open > at + 1 && self.opens(open);
        let inside = open + 1..self.partners[..].get(open).copied()?;
        (is_call && inside.start <= inside.end).then_some(Call { name, at, inside })
    }

    /// Every call, by place.
    pub(super) fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        (0..self.len()).filter_map(|at| self.call(at))
    }

    /// How many arguments a call has, besides what it is called on.
    pub(super) fn arguments(&self, call: &Call<'_>) -> usize {
        let is_self = |at: usize| self.name(at) == Some("self") && !self.is_mark(at + 1, '.');
        let arguments = self.elements(call.inside.clone()).into_iter();
        arguments
            .filter(|argument| !argument.clone().any(is_self))
            .count()
    }

    /// The parts of a range between the commas that stand in no further bracket.
    pub(super) fn elements(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut elements = Vec::new();
        let (mut start, mut index) = (range.start, range.start);
        while index < range.end {
            if self.is_mark(index, ',') {
                elements.push(start..index);
                start = index + 1;
            }
            index = self.after(index);
        }
        elements.push(start..range.end);
        elements.retain(|element| !element.is_empty());
        elements
    }

    /// Behind a token, or behind the bracket that it opens.
    fn after(&self, index: usize) -> usize {
        if self.opens(index) {
            self.partners[index].max(index) + 1
        } else {
            index + 1
        }
    }

    /// The range up to the semicolon or bracket that ends the statement in which `start` stands.
    pub(super) fn statement(&self, start: usize) -> Range<usize> {
        let mut end = start;
        while end < self.len() && !self.is_mark(end, ';') && !self.closes(end) {
            end = self.after(end);
        }
        start..end.min(self.len())
    }

    /// Where an expression begins whose last token is at `end`: `a` in `a.b()?.c(d)`.
    pub(super) fn chain_start(&self, end: usize) -> usize {
        let mut index = end;
        loop {
            while self.is_mark(index, '?') && index > 0 {
                index -= 1;
            }
            while self.closes(index) && self.partners[index] < index {
                index = self.partners[index];
                let Some(before) = index.checked_sub(1) else {
                    return index;
                };
                let is_macro = self.is_mark(before, '!');
                let called = before - usize::from(is_macro && before > 0);
                if self.name(called).is_none() && !self.closes(called) {
                    break;
                }
                index = called;
            }
            let Some(before) = index.checked_sub(2) else {
                return index;
            };
            let is_path = self.is_mark(index - 1, ':') && self.is_mark(before, ':');
            if self.is_mark(index - 1, '.') {
                index = before;
            } else if let (true, Some(segment)) = (is_path, index.checked_sub(3)) {
                index = segment;
            } else {
                return index;
            }
        }
    }

    /// Behind an expression that begins at `start`.
    pub(super) fn chain_end(&self, start: usize) -> usize {
        let mut index = start;
        while self.is_mark(index, '&') || self.is_mark(index, '*') {
            index += 1;
        }
        let mut wants_operand = true;
        while index < self.len() {
            let is_joint = ['.', ':', '?', '!']
                .iter()
                .any(|&mark| self.is_mark(index, mark));
            let is_operand = self.name(index).is_some() || self.text(index).is_some();
            match (is_operand, is_joint) {
                (true, _) if wants_operand => wants_operand = false,
                (false, true) => wants_operand = !self.is_mark(index, '?'),
                (false, false) if self.opens(index) && !self.is_mark(index, '{') => {
                    wants_operand = false;
                }
                _ => break,
            }
            index = self.after(index);
        }
        index
    }

    /// Which function of the file `index` stands in: a variable is known in its own.
    pub(super) fn function_of(&self, index: usize) -> usize {
        self.functions.get(index).copied().unwrap_or_default()
    }

    /// What stands in `impl <trait> for <type> { .. }`; nothing where there is no such block.
    pub(super) fn implementation(&self, of_trait: &str, for_type: &str) -> Range<usize> {
        let is_head = |&at: &usize| {
            self.name(at) == Some(of_trait)
                && self.name(at + 1) == Some("for")
                && self.name(at + 2) == Some(for_type)
                && self.is_mark(at + 3, '{')
        };
        (0..self.len())
            .find(is_head)
            .map_or(0..0, |at| at + 4..self.partners[at + 3])
    }
}
