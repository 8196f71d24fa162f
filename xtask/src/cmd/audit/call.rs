//! The commands that Rust code puts together: `Command::new("podman").args(["--root", x, "tag"])`,
//! a builder that is filled over several statements, a list that is bound to a name first. Words
//! are followed through names of the same file, and no further.

use std::collections::BTreeMap;
use std::ops::Range;

use super::command::{self, Found, Word};
use super::reference::Names;
use super::source::{Call, Source};

/// Functions that take a program, alone or with its arguments.
const PROGRAM: [&str; 5] = ["cmd", "command", "expression", "new", "program"];

/// Functions that take arguments.
const ARGUMENTS: [&str; 2] = ["arg", "args"];

/// Functions whose first word may be a verb, so called where somebody wraps an engine.
const RUNNERS: [&str; 10] = [
    "call", "capture", "docker", "exec", "execute", "invoke", "nerdctl", "podman", "run", "spawn",
];

/// Programs that have a `tag` or `pull` of their own.
const OTHERS: [&str; 5] = ["cargo", "gh", "git", "hg", "xtask"];

/// What every command of a file does.
pub(super) fn commands(source: &Source, names: &Names) -> Vec<Found> {
    let bindings = Bindings::of(source);
    let mut found = Vec::new();
    for builder in builders(source, &bindings).values() {
        found.extend(command::in_words(&builder.words, names));
        found.extend(command::in_arguments(builder.arguments(), names));
    }
    for list in lists(source) {
        let words = bindings.words(source, list);
        found.extend(command::in_words(&words, names));
    }
    let runs = |call: &Call<'_>| RUNNERS.contains(&call.name);
    for call in source.calls().filter(runs) {
        let words = bindings.words(source, call.inside);
        found.extend(command::in_arguments(&words, names));
    }
    found
}

/// Whatever stands in brackets and holds no block.
fn lists(source: &Source) -> impl Iterator<Item = Range<usize>> {
    (0..source.len())
        .filter(|&index| source.is_mark(index, '(') || source.is_mark(index, '['))
        .map(|open| open + 1..source.partner(open).max(open + 1))
        .filter(|range| {
            let mut inside = range.clone();
            !inside.any(|index| source.is_mark(index, ';') || source.is_mark(index, '{'))
        })
}

/// The words of one command.
#[derive(Default)]
struct Builder {
    words: Vec<Word>,
    /// Whether the first of them is the program.
    has_program: bool,
}

impl Builder {
    /// Arguments of what may be an engine.
    fn arguments(&self) -> &[Word] {
        match self.words.split_first() {
            Some((program, _)) if OTHERS.contains(&program.text.as_str()) => &[],
            Some((_, arguments)) if self.has_program => arguments,
            _ => &self.words,
        }
    }
}

/// Each command by what it is built on: a variable of a function, or the beginning of an
/// expression.
fn builders(source: &Source, bindings: &Bindings) -> BTreeMap<(usize, String), Builder> {
    let mut builders: BTreeMap<(usize, String), Builder> = BTreeMap::new();
    for call in source.calls() {
        let is_argument = ARGUMENTS.contains(&call.name);
        if !is_argument && !PROGRAM.contains(&call.name) {
            continue;
        }
        let mut words = bindings.words(source, call.inside.clone());
        match call.name {
            "cmd" => words = split(&words),
            // `Command::new` has no further arguments; what else is made is no command.
            "new" => words.truncate(1),
            _ => {}
        }
        let builder = builders.entry(key(source, call.at)).or_default();
        builder.has_program |= builder.words.is_empty() && !is_argument;
        builder.words.extend(words);
    }
    builders
}

/// xshell's `cmd!` takes a whole line.
fn split(words: &[Word]) -> Vec<Word> {
    let parts = |word: &Word| -> Vec<Word> {
        let parts = word.text.split_whitespace();
        parts.map(|part| Word::literal(word.line, part)).collect()
    };
    // The first is the shell's handle where the line is the second.
    words
        .iter()
        .skip_while(|word| word.filled)
        .flat_map(parts)
        .collect()
}

/// `command` in `let mut command = Command::new(..)` and in `command.arg(..)`.
fn key(source: &Source, at: usize) -> (usize, String) {
    let start = source.chain_start(at);
    let function = source.function_of(start);
    if let Some(name) = bound_name(source, start) {
        return (function, name.to_owned());
    }
    let direct = source.is_mark(start + 1, '.')
        && source
            .name(start + 2)
            .is_some_and(|name| ARGUMENTS.contains(&name));
    match source.name(start) {
        Some(name) if direct => (function, name.to_owned()),
        _ => (function, format!("#{start}")),
    }
}

/// The name to which an expression is bound that begins at `start`.
fn bound_name(source: &Source, start: usize) -> Option<&str> {
    let equals = start.checked_sub(1)?;
    if !source.is_mark(equals, '=') {
        return None;
    }
    let keyword = (equals.saturating_sub(20)..equals)
        .rev()
        .take_while(|&index| !source.is_mark(index, ';') && !source.is_mark(index, '{'))
        .find(|&index| source.name(index).is_some_and(is_binding))?;
    let name = keyword + 1;
    source.name(name + usize::from(source.name(name) == Some("mut")))
}

fn is_binding(word: &str) -> bool {
    ["let", "const", "static"].contains(&word)
}

/// Words that have a name.
struct Bindings(BTreeMap<String, Vec<Binding>>);

struct Binding {
    at: usize,
    /// `None` for a constant, which is known in the whole file.
    function: Option<usize>,
    words: Vec<Word>,
}

impl Bindings {
    fn of(source: &Source) -> Self {
        let mut bindings = Self(BTreeMap::new());
        for at in 0..source.len() {
            match source.name(at) {
                Some(word) if is_binding(word) => bindings.bind(source, at, word == "let"),
                Some("push" | "extend" | "extend_from_slice") => bindings.extend(source, at),
                _ => {}
            }
        }
        bindings
    }

    fn bind(&mut self, source: &Source, at: usize, is_variable: bool) {
        let name = at + 1 + usize::from(source.name(at + 1) == Some("mut"));
        let Some(name) = source.name(name) else {
            return;
        };
        let statement = source.statement(at);
        let Some(equals) = statement.clone().find(|&at| source.is_mark(at, '=')) else {
            return;
        };
        // A closure or a block is no list of words.
        let value = equals + 1..statement.end;
        if value.clone().any(|at| source.is_mark(at, '{')) {
            return;
        }
        let words = literals(self.words(source, value));
        let function = is_variable.then(|| source.function_of(at));
        let binding = Binding {
            at,
            function,
            words,
        };
        self.0.entry(name.to_owned()).or_default().push(binding);
    }

    /// `arguments.push("tag")`.
    fn extend(&mut self, source: &Source, at: usize) {
        let Some(call) = source.call(at) else {
            return;
        };
        let words = self.words(source, call.inside);
        let Some(variable) = at.checked_sub(2).filter(|_| source.is_mark(at - 1, '.')) else {
            return;
        };
        let function = Some(source.function_of(at));
        let bindings = source.name(variable).and_then(|name| self.0.get_mut(name));
        if let Some(binding) = bindings.and_then(|list| list.last_mut())
            && binding.function == function
        {
            binding.words.extend(words);
        }
    }

    fn get(&self, source: &Source, at: usize) -> Option<&[Word]> {
        let function = source.function_of(at);
        let bindings = self.0.get(source.name(at)?)?;
        let known = |binding: &&Binding| match binding.function {
            Some(own) => own == function && binding.at < at,
            None => true,
        };
        let words = &bindings.iter().rev().find(known)?.words;
        (!words.is_empty()).then_some(words)
    }

    /// Literals and names between commas, in whatever brackets they stand.
    fn words(&self, source: &Source, range: Range<usize>) -> Vec<Word> {
        let mut words = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let comma = rest.clone().find(|&at| source.is_mark(at, ','));
            let end = comma.unwrap_or(rest.end);
            words.extend(self.part(source, rest.start..end));
            rest.start = (end + 1).min(rest.end);
        }
        words
    }

    fn part(&self, source: &Source, part: Range<usize>) -> Vec<Word> {
        let literal = |at| Some(Word::literal(source.line(at), source.text(at)?));
        let literals: Vec<Word> = part.clone().filter_map(literal).collect();
        if !literals.is_empty() {
            return literals;
        }
        let bound = part.clone().find_map(|at| {
            let words = self.get(source, at)?.iter();
            let line = source.line(at);
            Some(
                words
                    .map(|word| Word {
                        line,
                        ..word.clone()
                    })
                    .collect(),
            )
        });
        let variable = || {
            let names: Vec<&str> = part.clone().filter_map(|at| source.name(at)).collect();
            let line = source.line(part.start);
            (!names.is_empty()).then(|| vec![Word::variable(line, &names.join("_"))])
        };
        bound.or_else(variable).unwrap_or_default()
    }
}

/// A name that stands for no literal stands for nothing.
fn literals(mut words: Vec<Word>) -> Vec<Word> {
    if words.iter().all(|word| word.filled) {
        words.clear();
    }
    words
}
