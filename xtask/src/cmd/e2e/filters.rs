//! `-- TEST FILTER`, looked at before anything is built: a name that no test has is refused at once.
//! It reads what the tests are called in the sources, and says nothing where it cannot be sure to
//! have read all: where a macro, an attribute or a module of another kind might make a test, the
//! program is asked when it is built.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use crate::cmd::audit::lexer::{Kind, Token, all_tokens};
use crate::cmd::audit::test_items::{attributes_length, group_length, is_mark, item_length, name};
use crate::exit::Failure;
use crate::pipeline::test::nothing_matches;
use crate::source::workspace::{Target, Workspace};

/// Attributes that make no test of another name, and switch none on that is not in the file.
const ATTRIBUTES: [&str; 14] = [
    "allow",
    "cfg",
    "deny",
    "deprecated",
    "derive",
    "doc",
    "expect",
    "ignore",
    "must_use",
    "path",
    "should_panic",
    "test",
    "track_caller",
    "warn",
];
/// What may be derived: other derivations may bring tests along.
const DERIVED: [&str; 11] = [
    "Clone",
    "Copy",
    "Debug",
    "Default",
    "Deserialize",
    "Eq",
    "Hash",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Serialize",
];
/// Modules in modules end somewhere.
const DEPTH_MAX: usize = 16;

/// Refuses filters of which it is known that no test of the target has one in its name.
///
/// # Errors
/// [`crate::exit::Exit::Usage`], naming the filters and the tests that there are.
pub(super) fn check(
    workspace: &Workspace,
    target: &Target,
    filters: &[String],
) -> Result<(), Failure> {
    // An option of the test program is its own affair.
    if filters.is_empty() || filters.iter().any(|filter| filter.starts_with('-')) {
        return Ok(());
    }
    let Some(tests) = tests_of(workspace, target) else {
        return Ok(());
    };
    let matches = |test: &String| filters.iter().any(|filter| test.contains(filter.as_str()));
    if tests.iter().any(matches) {
        return Ok(());
    }
    let known: Vec<&str> = tests.iter().map(String::as_str).collect();
    Err(nothing_matches(filters, &known))
}

/// The names of all tests that the target can have; nothing where that is not known.
fn tests_of(workspace: &Workspace, target: &Target) -> Option<Vec<String>> {
    let package = workspace.packages.get(&workspace.tests)?;
    let package = workspace.root.join(&package.directory);
    let manifest = fs::read_to_string(package.join("Cargo.toml")).ok()?;
    if !is_plain(&manifest.parse().ok()?, target.name.as_str()) {
        return None;
    }
    let mut found = Vec::new();
    let root = package.join("tests").join(format!("{}.rs", target.name));
    read_file(&root, "", 0, &mut found)?;
    found.sort();
    Some(found)
}

/// The program is made from the file of its name, by the usual harness.
fn is_plain(manifest: &toml::Table, target: &str) -> bool {
    let tests = manifest.get("test").and_then(toml::Value::as_array);
    let of_target = tests.into_iter().flatten().find(|test| {
        let name = test.get("name").and_then(toml::Value::as_str);
        name == Some(target)
    });
    of_target.is_none_or(|test| test.get("path").is_none() && test.get("harness").is_none())
}

fn read_file(path: &Utf8Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    let tokens = all_tokens(&fs::read_to_string(path).ok()?);
    let file = Place {
        folder: path.parent()?.to_owned(),
        is_inline: false,
        prefix: prefix.to_owned(),
        depth,
    };
    file.read(&tokens, found)
}

/// A file, or a module that stands in one.
struct Place {
    folder: Utf8PathBuf,
    is_inline: bool,
    /// `module::`, or nothing.
    prefix: String,
    depth: usize,
}

impl Place {
    /// Item by item; nothing at the first that is not understood.
    fn read(&self, tokens: &[Token], found: &mut Vec<String>) -> Option<()> {
        let mut rest = tokens;
        while !rest.is_empty() {
            let (attributes, item) = rest.split_at(attributes_length(rest));
            let attributes = attributes_of(attributes)?;
            if item.is_empty() {
                // Those of the file itself.
                return Some(());
            }
            let (item, after) = item.split_at(item_length(item));
            self.read_item(&attributes, item, found)?;
            rest = after;
        }
        Some(())
    }

    fn read_item(
        &self,
        attributes: &[Attribute<'_>],
        item: &[Token],
        found: &mut Vec<String>,
    ) -> Option<()> {
        let at = keyword(item)?;
        match name(item, at)? {
            "fn" => {
                let function = name(item, at + 1)?;
                // `r#name` is two tokens.
                let is_whole = is_mark(item, at + 2, '(') || is_mark(item, at + 2, '<');
                if attributes.iter().any(|one| one.name == "test") {
                    found.push(format!("{}{function}", self.prefix));
                }
                is_whole.then_some(())
            }
            "mod" => self.read_module(attributes, &item[at + 1..], found),
            // It could give `#[test]` another meaning.
            "use" => {
                let is_test =
                    |token: &Token| matches!(&token.kind, Kind::Name(name) if name == "test");
                (!item.iter().any(is_test)).then_some(())
            }
            "const" | "static" | "type" | "struct" | "enum" | "impl" | "trait" => Some(()),
            _ => None,
        }
    }

    /// `name;` of a file that is named, or `name { ... }`.
    fn read_module(
        &self,
        attributes: &[Attribute<'_>],
        module: &[Token],
        found: &mut Vec<String>,
    ) -> Option<()> {
        let prefix = format!("{}{}::", self.prefix, name(module, 0)?);
        let path = attributes.iter().find(|one| one.name == "path");
        if is_mark(module, 1, '{') {
            let inside = Self {
                folder: self.folder.clone(),
                is_inline: true,
                prefix,
                depth: self.depth,
            };
            return match path {
                None => inside.read(module.get(2..module.len() - 1)?, found),
                Some(_) => None,
            };
        }
        // Where a file lies that is not named depends on more than this file.
        let file = path?.tokens.iter().find_map(|token| match &token.kind {
            Kind::Text(text) if !text.contains('\\') => Some(text),
            _ => None,
        })?;
        if self.is_inline || !is_mark(module, 1, ';') {
            return None;
        }
        read_file(&self.folder.join(file), &prefix, self.depth + 1, found)
    }
}

/// `#[name ...]`.
struct Attribute<'a> {
    name: &'a str,
    tokens: &'a [Token],
}

/// All of them, if all are known.
fn attributes_of(tokens: &[Token]) -> Option<Vec<Attribute<'_>>> {
    let mut found = Vec::new();
    let mut rest = tokens;
    while !rest.is_empty() {
        let length = 1 + group_length(&rest[1..]);
        let of_file = usize::from(is_mark(rest, 1, '!'));
        let inside = rest.get(2 + of_file..length - 1)?;
        let known = name(inside, 0).filter(|name| ATTRIBUTES.contains(name))?;
        // `test::name` is none that is known.
        let is_path = is_mark(inside, 1, ':');
        let derived_alone = |token: &Token| match &token.kind {
            Kind::Name(name) => DERIVED.contains(&name.as_str()),
            Kind::Mark(mark) => "(),".contains(*mark),
            Kind::Text(_) | Kind::Character(_) => false,
        };
        if is_path || known == "derive" && !inside[1..].iter().all(derived_alone) {
            return None;
        }
        found.push(Attribute {
            name: known,
            tokens: inside,
        });
        rest = &rest[length..];
    }
    Some(found)
}

/// Where the word stands that says what the item is.
fn keyword(item: &[Token]) -> Option<usize> {
    let mut index = 0;
    loop {
        match name(item, index)? {
            "pub" if is_mark(item, index + 1, '(') => {
                index += 1 + group_length(&item[index + 1..]);
            }
            "const" if name(item, index + 1).is_some_and(|next| next == "fn") => index += 1,
            "pub" | "async" | "unsafe" => index += 1,
            // `name!` is a macro, whatever it is called.
            _ if is_mark(item, index + 1, '!') => return None,
            _ => return Some(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::{is_plain, read_file, tests_of};
    use crate::source::workspace::Workspace;

    /// What is known of a file with these words.
    fn names(source: &str) -> Option<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        std::fs::write(folder.join("a.rs"), source).unwrap();
        std::fs::create_dir(folder.join("a")).unwrap();
        std::fs::write(folder.join("a/b.rs"), "#[test]\nfn below() {}\n").unwrap();
        let mut found = Vec::new();
        read_file(&folder.join("a.rs"), "", 0, &mut found).map(|()| found)
    }

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        assert_eq!(names(source).unwrap(), expected, "{source}");
    }

    #[test]
    fn tests_are_named_with_their_modules() {
        check(
            "#![expect(dead_code)] fn f() {} #[test] fn g() { h(|| 1); }",
            &["g"],
        );
        check(
            "#[test] #[should_panic(expected = \"a\")] fn g() {}",
            &["g"],
        );
        check(
            "#[path = \"a/b.rs\"] mod c;\n#[test] fn g() {}",
            &["c::below", "g"],
        );
        check(
            "mod c { use a::b; #[test] fn g() {} mod d { #[test] fn h() {} } }",
            &["c::g", "c::d::h"],
        );
        check("#[cfg(test)] mod c { #[test] fn g() {} }", &["c::g"]);
        check(
            "const A: &str = concat!(\"a\"); fn f() -> Result<(), E> { vec![1] }",
            &[],
        );
        check(
            "#[derive(Debug, Clone)] pub(crate) struct A { b: u8 } impl A { fn g(&self) {} }",
            &[],
        );
    }

    #[test]
    fn what_could_make_a_test_makes_it_unknown() {
        for source in [
            "many_tests!(a, b);",
            "tools::many_tests! { a, b }",
            "macro_rules! a { () => {} }",
            "include!(\"b.rs\");",
            "#[tokio::test] fn g() {}",
            "#[rstest] fn g() {}",
            "#[test::with(1)] fn g() {}",
            "#[cfg_attr(unix, test)] fn g() {}",
            "#[derive(TS)] struct A;",
            "#[derive(Debug, other::Clone2)] struct A;",
            "use test_log::test;",
            "extern crate a;",
            "#[test] fn r#match() {}",
            "mod c;",
            "#[path = \"missing.rs\"] mod c;",
            "mod c { #[path = \"b.rs\"] mod d; }",
            "mod c { many_tests!(a); }",
            "#[path = \"a.rs\"] mod c;",
        ] {
            assert_eq!(names(source), None, "{source}");
        }
    }

    #[test]
    fn another_file_or_harness_is_not_read() {
        let plain = |text: &str| is_plain(&text.parse().unwrap(), "gate");
        assert!(plain("[[test]]\nname = \"gate\"\ntest = false"));
        assert!(plain("[package]\nname = \"t\""));
        assert!(plain("[[test]]\nname = \"other\"\npath = \"x.rs\""));
        assert!(!plain("[[test]]\nname = \"gate\"\npath = \"x.rs\""));
        assert!(!plain("[[test]]\nname = \"gate\"\nharness = false"));
    }

    /// Each line `fn` below `#[test]` in the files of this tree, by another way than the lexer.
    #[test]
    fn all_tests_of_this_tree_are_known() {
        let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let workspace = Workspace::load(root).unwrap();
        for target in workspace.targets.values() {
            let known = tests_of(&workspace, target).unwrap();
            let file = root.join(format!("test-e2e/tests/{}", target.name));
            let mut texts = vec![std::fs::read_to_string(format!("{file}.rs")).unwrap()];
            for entry in file.read_dir_utf8().into_iter().flatten() {
                texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
            }
            let count: usize = texts
                .iter()
                .map(|text| text.matches("#[test]\n").count())
                .sum();
            assert_eq!(known.len(), count, "{known:?}");
            assert!(count > 3, "{}", target.name);
        }
    }
}
