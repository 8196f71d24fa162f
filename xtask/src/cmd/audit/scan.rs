//! The four wrong patterns, found in manifests, workflows and Rust sources, each at its line.
//!
//! - fixed tag: one of our images with a tag that stands in the tree;
//! - shared image: the same tag in more than one file, the tag of another target, or an image of
//!   ours that is fetched instead of built;
//! - re-tag: an image gets another name;
//! - made at deploy time: a tag or reference is made anywhere but in phase 0.
//!
//! In Rust, what counts is what a run can execute: string literals and calls, not comments, not
//! `#[cfg(test)]`, not the tool's own `tests/`, which deploy nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::call;
use super::command;
use super::entry::{self, Entry};
use super::lexer;
use super::reference::{Mention, Names, Place, is_opened, is_ours, mentions};
use super::source::Source;
use super::template::{self, is_reference, is_tagged};

/// A wrong pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// A tag that stands in the tree.
    FixedTag,
    /// One image for more than one target.
    SharedImage,
    /// An image gets another name.
    ReTag,
    /// A reference made outside phase 0.
    MadeAtDeployTime,
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::FixedTag => "fixed tag",
            Self::SharedImage => "shared image",
            Self::ReTag => "re-tag",
            Self::MadeAtDeployTime => "made at deploy time",
        })
    }
}

/// A wrong pattern at its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Relative to the root.
    pub path: Utf8PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// Which.
    pub pattern: Pattern,
    /// What stands there.
    pub text: String,
}

/// The one file where a reference is made: `ImageRef` writes itself there.
const PHASE_0: &str = "xtask/src/pipeline/tag.rs";

/// Every wrong pattern in the tree below `root`, by path and line.
///
/// # Errors
/// When a file cannot be read.
pub fn scan(root: &Utf8Path, names: &Names) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut literals = Vec::new();
    for path in files(root)? {
        let bytes = fs::read(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
        let source = String::from_utf8_lossy(&bytes);
        let mut file = File {
            path: &path,
            names,
            findings: &mut findings,
            literals: &mut literals,
        };
        match path.extension() {
            Some("rs") => file.rust(&source),
            Some("json") => file.json(&source),
            Some("yaml" | "yml") if !is_workflow(&path) => file.manifest(&source),
            _ => file.commands(&source),
        }
    }
    findings.extend(judge_literals(literals, names));
    findings.sort();
    // One line can show one pattern in two ways.
    findings.dedup_by_key(|finding| (finding.path.clone(), finding.line, finding.pattern));
    Ok(findings)
}

/// A tag that stands in the tree.
struct Literal {
    path: Utf8PathBuf,
    line: usize,
    package: String,
    tag: String,
    /// What stands there.
    text: String,
}

struct File<'a> {
    path: &'a Utf8Path,
    names: &'a Names,
    findings: &'a mut Vec<Finding>,
    literals: &'a mut Vec<Literal>,
}

impl File<'_> {
    fn find(&mut self, line: usize, pattern: Pattern, text: &str) {
        self.findings.push(Finding {
            path: self.path.to_owned(),
            line,
            pattern,
            text: text.trim().to_owned(),
        });
    }

    /// Mentions of our images in one line.
    fn mentioned(&mut self, line: usize, text: &str, place: Place) {
        for mention in mentions(text, place, self.names) {
            match mention {
                Mention::Filled => self.find(line, Pattern::MadeAtDeployTime, text),
                Mention::Literal { image, tag } => self.literals.push(Literal {
                    path: self.path.to_owned(),
                    line,
                    package: image
                        .split([':', '@'])
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                    tag,
                    text: image,
                }),
            }
        }
    }

    /// Manifests name our images by their logical name and nothing else.
    fn manifest(&mut self, source: &str) {
        let mut entries = Vec::new();
        for (line, text) in numbered(source) {
            let text = without_comment(text);
            self.mentioned(line, text, Place::Any);
            entries.extend(entry::of_yaml_line(line, text));
        }
        self.entries(&entries);
    }

    fn json(&mut self, source: &str) {
        for (line, text) in numbered(source) {
            self.mentioned(line, text, Place::Any);
        }
        self.entries(&entry::of_json(&lexer::tokens(source)));
    }

    fn entries(&mut self, entries: &[Entry]) {
        for (index, entry) in entries.iter().enumerate() {
            let (line, value) = (entry.line, entry.value.as_str());
            match entry.key.as_str() {
                "image" if value.is_empty() => {
                    let block = entries[index + 1..].iter();
                    let block = block.take_while(|inner| inner.depth > entry.depth);
                    self.image_block(&block.collect::<Vec<_>>());
                }
                // No tag means `latest`, which is a fixed tag.
                "image" if self.is_ours_without_tag(value) || value.ends_with(":latest") => {
                    self.find(line, Pattern::FixedTag, value);
                }
                // Which image it is stands elsewhere; a manifest holds the logical name.
                "image" if is_filled_name(value) => {
                    self.find(line, Pattern::MadeAtDeployTime, value);
                }
                "newTag" => self.find(line, Pattern::FixedTag, value),
                "newName" => self.find(line, Pattern::ReTag, value),
                _ => {}
            }
        }
    }

    /// `repository` and `tag` as the values of Helm charts have them.
    fn image_block(&mut self, block: &[&Entry]) {
        let get = |key: &str| block.iter().find(|entry| entry.key == key);
        let Some(repository) = get("repository").filter(|own| is_ours(&own.value, self.names))
        else {
            return;
        };
        let Some(tag) = get("tag").filter(|tag| !tag.value.is_empty()) else {
            self.find(repository.line, Pattern::FixedTag, &repository.value);
            return;
        };
        if is_filled(&tag.value) {
            self.find(tag.line, Pattern::MadeAtDeployTime, &tag.value);
            return;
        }
        let name = repository.value.rsplit('/').next().unwrap_or_default();
        self.literals.push(Literal {
            path: self.path.to_owned(),
            line: tag.line,
            package: name.to_owned(),
            tag: tag.value.clone(),
            text: tag.value.clone(),
        });
    }

    fn is_ours_without_tag(&self, image: &str) -> bool {
        image
            .rsplit_once('/')
            .is_some_and(|(_, name)| self.names.packages.contains(name))
    }

    /// Workflows, and whatever else holds command lines.
    fn commands(&mut self, source: &str) {
        for (line, text) in numbered(source) {
            self.mentioned(line, without_comment(text), Place::Any);
        }
        for (line, text) in command_lines(source) {
            for (line, pattern) in command::in_line(line, &text, self.names) {
                self.find(line, pattern, &text);
            }
        }
    }

    /// What a run can execute.
    fn rust(&mut self, text: &str) {
        let source = Source::new(text);
        let phase_0 = if self.path == PHASE_0 {
            source.implementation("Display", "ImageRef")
        } else {
            0..0
        };
        // The one that is right: phase 0 writes its reference once.
        let mut right = 1;
        for template in template::templates(&source) {
            if right > 0 && phase_0.contains(&template.at) && is_reference(&template.text) {
                right -= 1;
                continue;
            }
            for (offset, part) in template.text.lines().enumerate() {
                self.rust_text(template.line + offset, part, template.place);
            }
        }
        for (line, pattern) in call::commands(&source, self.names) {
            let text = text.lines().nth(line - 1).unwrap_or_default();
            self.find(line, pattern, text);
        }
        for call in source.calls() {
            self.function(source.line(call.at), call.name, source.arguments(&call));
        }
    }

    fn rust_text(&mut self, line: usize, text: &str, place: Place) {
        self.mentioned(line, text, place);
        if is_reference(text) || is_opened(text, self.names) {
            self.find(line, Pattern::MadeAtDeployTime, text);
        }
        if is_tagged(text, self.names) {
            self.find(line, Pattern::FixedTag, text);
        }
        for (line, pattern) in command::in_line(line, text, self.names) {
            self.find(line, pattern, text);
        }
    }

    /// A function is defined or called: what its name says it does.
    fn function(&mut self, line: usize, name: &str, arguments: usize) {
        let words: Vec<&str> = name.split('_').collect();
        let has = |candidates: &[&str]| words.iter().any(|word| candidates.contains(word));
        // With one argument, an image is asked for its tag.
        let tags = arguments > 1 && (name.starts_with("tag_image") || name == "image_tag");
        if has(&["retag"]) || name.starts_with("re_tag") || tags {
            self.find(line, Pattern::ReTag, name);
        }
        let makes = has(&["generate", "random", "unique", "fresh"]);
        let reference = has(&["tag"]) || has(&["image"]) && has(&["name", "ref", "reference"]);
        if makes && reference {
            self.find(line, Pattern::MadeAtDeployTime, name);
        }
    }
}

/// A constant tag is shared when it stands in several files or is the tag of another target.
fn judge_literals(literals: Vec<Literal>, names: &Names) -> Vec<Finding> {
    let mut files: BTreeMap<(&str, &str), Vec<&Utf8Path>> = BTreeMap::new();
    for literal in &literals {
        let paths = files.entry((&literal.package, &literal.tag)).or_default();
        if !paths.contains(&literal.path.as_path()) {
            paths.push(&literal.path);
        }
    }
    let is_foreign = |literal: &Literal| {
        let target = names.targets.iter().find(|target| {
            literal
                .tag
                .strip_prefix(target.as_str())
                .is_some_and(|rest| rest.starts_with('-'))
        });
        let own = literal.path.file_stem();
        target.is_some_and(|target| {
            own.is_some_and(|own| names.targets.contains(own) && own != target)
        })
    };
    let pattern = |literal: &Literal| {
        if files[&(literal.package.as_str(), literal.tag.as_str())].len() > 1 || is_foreign(literal)
        {
            Pattern::SharedImage
        } else {
            Pattern::FixedTag
        }
    };
    literals
        .iter()
        .map(|literal| Finding {
            path: literal.path.clone(),
            line: literal.line,
            pattern: pattern(literal),
            text: literal.text.clone(),
        })
        .collect()
}

/// `${TAG}`, `{{ .Values.tag }}`: a template puts something else there.
fn is_filled(value: &str) -> bool {
    value.contains('$') || value.contains("{{")
}

/// Whether a template makes the name of an image, and not only what stands before or after it.
fn is_filled_name(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.starts_with('$') || name.starts_with("{{")
}

fn numbered(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source
        .lines()
        .enumerate()
        .map(|(index, text)| (index + 1, text))
}

/// Lines without comments; what ends in a backslash goes on in the next.
fn command_lines(source: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (line, text) in numbered(source) {
        let text = without_comment(text).trim_end();
        let part = text.strip_suffix('\\').unwrap_or(text);
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, command)) => command.push_str(part),
            None => lines.push((line, part.to_owned())),
        }
        goes_on = part.len() < text.len();
    }
    lines
}

fn without_comment(text: &str) -> &str {
    if text.trim_start().starts_with('#') {
        return "";
    }
    text.split_once(" #").map_or(text, |(before, _)| before)
}

fn is_workflow(path: &Utf8Path) -> bool {
    path.starts_with(".github") || path.starts_with(".gitlab-ci.yml")
}

/// Manifests, workflows, Rust sources and files of commands, relative to the root. Folders that
/// hold results or the tool's own tests are left out.
fn files(root: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut folders = vec![Utf8PathBuf::new()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let absolute = root.join(&folder);
        let entries = absolute
            .read_dir_utf8()
            .with_context(|| format!("cannot read {absolute}"))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {absolute}"))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && is_scanned_folder(root, &path) {
                folders.push(path);
            } else if kind.is_file() && is_scanned_file(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_scanned_folder(root: &Utf8Path, path: &Utf8Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let hidden = name.starts_with('.') && ![".github", ".ci", ".cargo"].contains(&name);
    // Another checkout inside this one speaks for itself.
    let nested = root.join(path).join(".git").exists();
    // cargo marks its build folders, wherever they are; a folder may be called `target` as well.
    let built = path == "target" || root.join(path).join("CACHEDIR.TAG").exists();
    !hidden && !nested && !built && path != "xtask/tests"
}

fn is_scanned_file(path: &Utf8Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    matches!(path.extension(), Some("rs" | "yaml" | "yml" | "sh" | "mk"))
        || name.starts_with("Dockerfile")
        || name.starts_with("Containerfile")
        || ["Makefile", "justfile"].contains(&name)
        || path.starts_with(".ci")
        || path.starts_with("deploy") && path.extension() == Some("json")
}
