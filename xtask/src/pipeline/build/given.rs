//! What cargo's configuration gives to compiler and linker beyond the tree: files that a flag or a
//! variable names by an absolute path, and the linker. Each is hashed. Refuses what leads to more
//! than can be told: a folder, a library by its name, arguments that stand in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::probe::{Stamp, on_path};
use crate::digest::Digest;
use crate::exit::{Exit, Failure};

/// Between them stand the words of a value.
const SEPARATORS: [char; 13] = [
    '=', ',', ':', ';', ' ', '\t', '\n', '"', '\'', '(', ')', '|', '\u{1f}',
];
const REMAP: &str = "--remap-path-prefix";
const HINT_FOLDER: &str =
    "name the files themselves, as `-Clink-arg=/path/of/libx.a`: each of them is hashed";

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// For the recipe: the digest of each file, by how it is written.
    pub(super) fields: BTreeMap<String, String>,
    /// The same, by path.
    pub(super) files: BTreeMap<Utf8PathBuf, Digest>,
    /// Every path that could be meant, as it was before it was read.
    pub(super) stamps: Vec<Stamp>,
    /// Programs by name, and where PATH led.
    pub(super) programs: BTreeMap<String, Option<Utf8PathBuf>>,
}

impl Given {
    /// Flags for rustc. `is_linked_in` tells of a library that it is hashed anyway, `find_linker`
    /// where the C compiler finds a linker of this name.
    pub(super) fn flags(
        &mut self,
        flags: &[String],
        is_linked_in: impl Fn(&str) -> bool,
        find_linker: impl Fn(&str) -> Result<Utf8PathBuf>,
    ) -> Result<()> {
        let mut is_remap = false;
        for flag in flags {
            let of_remap = std::mem::replace(&mut is_remap, flag == REMAP);
            // These name paths, and nothing is read there.
            if of_remap || flag.starts_with(REMAP) {
                continue;
            }
            let place = format!("the rustflag `{flag}` of cargo's configuration");
            check_words(flag, &place, &is_linked_in)?;
            if let Some(linker) = linker_of(flag).filter(|linker| !linker.contains('/')) {
                self.program(linker, linker)?;
            }
            if let Some((_, rest)) = flag.split_once("-fuse-ld=") {
                let name = rest.split(SEPARATORS).next().unwrap_or_default();
                if !name.contains('/') {
                    let name = format!("ld.{name}");
                    let found = find_linker(&name)?;
                    self.program(&name, found.as_str())?;
                }
            }
            self.paths(flag, &place)?;
        }
        Ok(())
    }

    /// A variable of `[env]`.
    pub(super) fn variable(&mut self, file: &Utf8Path, name: &str, value: &str) -> Result<()> {
        // What begins an address, not a folder that somebody reads.
        if value == "/" {
            return Ok(());
        }
        self.paths(value, &format!("`env.{name}` of {file}"))
    }

    /// A program: as it is written, and its path or its name on PATH.
    pub(super) fn program(&mut self, written: &str, place: &str) -> Result<()> {
        let found = on_path(written);
        let path = if place.contains('/') {
            Some(place.into())
        } else {
            found.clone()
        };
        if !written.contains('/') {
            self.programs.insert(written.to_owned(), found);
        }
        if let Some(path) = path {
            self.path(written, &path, "the linker of cargo's configuration")?;
        }
        Ok(())
    }

    /// Every absolute path in a value. What separates words may be part of a path, too: of all
    /// that begin at one place the longest counts that is there.
    fn paths(&mut self, value: &str, place: &str) -> Result<()> {
        for start in starts(value) {
            let rest = &value[start..];
            let ends = rest.match_indices(SEPARATORS).map(|(end, _)| end);
            let mut ends: Vec<usize> = ends.chain([rest.len()]).collect();
            while let Some(end) = ends.pop() {
                let path = &rest[..end];
                if self.path(path, path.into(), place)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether something is there.
    fn path(&mut self, written: &str, path: &Utf8Path, place: &str) -> Result<bool> {
        self.stamps.push(Stamp::of(path.to_owned()));
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_nothing(error.kind()) => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        if metadata.is_file() {
            let digest = digest_of(path)?;
            self.fields
                .insert(format!("given {written}"), digest.to_string());
            self.files.insert(path.to_owned(), digest);
        } else if path != "/dev/null" {
            let what = format!("{place} leads to {path}, whose files nobody hashed");
            return Err(Failure::new(Exit::Source, what).hint(HINT_FOLDER).into());
        }
        Ok(true)
    }
}

/// Fails when a file is another one than the recipe has, so that nobody knows which was linked.
pub(super) fn check_unchanged(files: &BTreeMap<Utf8PathBuf, Digest>) -> Result<()> {
    for (path, digest) in files {
        if digest_of(path)? != *digest {
            let what = format!("{path}, which cargo's configuration names, changed meanwhile");
            return Err(Failure::new(Exit::Build, what)
                .hint("run again; a file that the build itself writes must not be named there")
                .into());
        }
    }
    Ok(())
}

fn digest_of(path: &Utf8Path) -> Result<Digest> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    Ok(Digest::of(&bytes))
}

fn is_nothing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
    )
}

/// Refuses words of a flag that lead to files by something else than their path.
fn check_words(flag: &str, place: &str, is_linked_in: impl Fn(&str) -> bool) -> Result<()> {
    let refused = |what: &str, hint: &str| {
        let what = format!("{place} {what}");
        Err(Failure::new(Exit::Source, what).hint(hint).into())
    };
    for word in flag.split(SEPARATORS) {
        if word.starts_with('@') {
            return refused(
                "takes arguments from a file",
                "write the arguments out, so that they are hashed",
            );
        }
        if word.split('/').any(|part| part.ends_with("..")) {
            return refused(
                "has a path with `..` in it",
                "write the path from `/` on: the file is hashed then",
            );
        }
        let library = word.strip_prefix("-l").or(word.strip_prefix("--library"));
        // LLVM has options that begin like that.
        let library = library.filter(|_| !flag.contains("llvm-args"));
        if library.is_some_and(|name| !is_linked_in(name)) {
            return refused("names a library that is looked for", HINT_FOLDER);
        }
    }
    Ok(())
}

/// `-Clinker=..`, `-C linker=..`, `--codegen=linker=..`, and `linker=..` after a `-C`.
fn linker_of(flag: &str) -> Option<&str> {
    let option = flag
        .strip_prefix("--codegen")
        .or(flag.strip_prefix("-C"))
        .unwrap_or(flag);
    option
        .trim_start_matches(['=', ' '])
        .strip_prefix("linker=")
}

/// Where an absolute path begins: a word, or what follows an option in it (`-L/folder`).
fn starts(value: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut word = 0;
    let mut in_path = false;
    for (place, character) in value.char_indices() {
        if SEPARATORS.contains(&character) {
            word = place + character.len_utf8();
            in_path = false;
        } else if character == '/' && !std::mem::replace(&mut in_path, true) {
            let before = &value[word..place];
            if before.is_empty() || before.starts_with('-') {
                starts.push(place);
            }
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::{Given, Stamp, check_unchanged};

    const LINKED_IN: &str = "gcc";

    fn given(flags: &[&str]) -> anyhow::Result<Given> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut given = Given::default();
        let find = |name: &str| Ok(format!("/nowhere/{name}").into());
        given.flags(&flags, |name| name == LINKED_IN, find)?;
        Ok(given)
    }

    #[test]
    fn files_are_found_wherever_they_stand_in_a_flag() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (file, odd) = (folder.join("n.o"), folder.join("a b,c=d.o"));
        for path in [&file, &odd] {
            std::fs::write(path, "one").unwrap();
        }
        for path in [&file, &odd] {
            for flags in [
                vec![format!("-Clink-arg={path}")],
                vec!["-C".to_owned(), format!("link-arg={path}")],
                vec![format!("-Clink-args=-Wl,-T{path} -O1")],
                vec![format!("-Clink-arg=-Wl,--version-script={path}")],
                vec!["--extern".to_owned(), format!("other={path}")],
                vec![format!("-Clinker={path}")],
                vec![format!("-Clink-arg=-fuse-ld={path}")],
                vec![format!("-Cprofile-use={path}")],
            ] {
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                let given = given(&flags).unwrap();
                assert_eq!(given.files.keys().collect::<Vec<_>>(), [path], "{flags:?}");
                assert_eq!(given.fields.len(), 1, "{flags:?}");
            }
        }
        let given = given(&[&format!("-Clink-args={file} {odd}")]).unwrap();
        assert_eq!(given.files.len(), 2);
        check_unchanged(&given.files).unwrap();
        std::fs::write(&odd, "two").unwrap();
        let error = check_unchanged(&given.files).unwrap_err().to_string();
        assert!(error.starts_with(odd.as_str()), "{error}");
    }

    #[test]
    fn programs_are_found_on_path() {
        for (flags, program) in [
            (&["-Clinker=cc"][..], "cc"),
            (&["-C", "linker=cc"], "cc"),
            (&["--codegen=linker=cc"], "cc"),
            (&["-Clink-arg=-fuse-ld=mold"], "ld.mold"),
        ] {
            let given = given(flags).unwrap();
            assert_eq!(given.programs.keys().collect::<Vec<_>>(), [program]);
            let is_there = program == "cc";
            assert_eq!(given.files.len(), usize::from(is_there), "{flags:?}");
            let mut places = given.stamps.iter().map(Stamp::path);
            assert!(places.next_back().unwrap().ends_with(program));
        }
    }

    #[test]
    fn what_leads_to_more_than_a_file_is_refused() {
        for (flags, told) in [
            (&["-L", "/usr"][..], "leads to /usr,"),
            (&["-L/usr"], "leads to /usr,"),
            (&["-Lnative=/usr"], "leads to /usr,"),
            (&["-Clink-arg=-B/usr"], "leads to /usr,"),
            (&["-Clink-arg=-Wl,-L,/usr"], "leads to /usr,"),
            (&["--sysroot=/usr"], "leads to /usr,"),
            (&["@/etc/passwd"], "takes arguments from a file"),
            (&["-Clink-arg=@args"], "takes arguments from a file"),
            (&["-Clink-arg=-Wl,@/args"], "takes arguments from a file"),
            (&["-Clink-arg=../n.o"], "`..`"),
            (&["-L../usr"], "`..`"),
            (&["-l", "z"], "names a library"),
            (&["-lz"], "names a library"),
            (&["-lstatic=z"], "names a library"),
            (&["-Clink-args=-lgcc -lz"], "names a library"),
            (&["-Clink-arg=-Wl,--library=z"], "names a library"),
        ] {
            let error = given(flags).unwrap_err().to_string();
            assert!(error.contains(told), "{flags:?}: {error}");
        }
        for flags in [
            &["-Clink-arg=-lgcc", "-Cllvm-args=-loop-x"][..],
            &[
                "--remap-path-prefix",
                "/usr=/x",
                "--remap-path-prefix=/usr=/y",
            ],
            &["-Clink-arg=/no/such/file", "-Clink-arg=of/the/closure.o"],
            &["-Clink-arg=-Wl,-Map=/dev/null"],
        ] {
            assert!(given(flags).unwrap().files.is_empty(), "{flags:?}");
        }
    }

    #[test]
    fn variables_lead_to_files_too() {
        let mut given = Given::default();
        let mut variable = |value: &str| given.variable("config.toml".into(), "NAME", value);
        variable("/").unwrap();
        variable("https://localhost/usr").unwrap();
        let error = variable("-O2 -I/usr").unwrap_err().to_string();
        assert!(
            error.starts_with("`env.NAME` of config.toml leads to /usr,"),
            "{error}"
        );
        variable("/etc/passwd").unwrap();
        assert_eq!(given.files.len(), 1);
    }
}
