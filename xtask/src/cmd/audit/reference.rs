//! What in a text names one of our images: a literal tag, or a tag that is filled in. Where an
//! image is named, or a repository stands before the name, every tag counts; elsewhere a name with
//! a colon can be an address with a port, a scope or a label, and counts where what follows is
//! called like a tag.

use std::collections::BTreeSet;

/// The names that the audit looks for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Packages that have images.
    pub packages: BTreeSet<String>,
    /// Targets.
    pub targets: BTreeSet<String>,
}

/// How a text names an image of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mention {
    /// With a tag that stands there: the image without its repository, `datastorage:e2e`.
    Literal {
        /// Name and tag.
        image: String,
        /// The tag or digest; `latest` where none stands.
        tag: String,
    },
    /// With a tag that is filled in: `datastorage:${TAG}`, `localhost/{name}:{tag}`.
    Filled,
}

/// What kind of place a text stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where an image is named, and nothing else can stand: `image:`, an argument of an engine.
    Image,
    /// Anywhere else.
    Any,
}

/// Names that say that what they hold is an image.
const PLACE_WORDS: [&str; 4] = ["image", "images", "reference", "tag"];

/// Whether a key, an option, a variable or a function is called like what holds an image.
pub(super) fn says_image(name: &str) -> bool {
    has_word(name, &PLACE_WORDS)
}

/// Whether one of the words of a name is among the candidates: `image_name` is `image` and `name`.
pub(super) fn has_word(names: &str, candidates: &[&str]) -> bool {
    names
        .to_lowercase()
        .split(|letter: char| !letter.is_alphanumeric())
        .any(|word| candidates.contains(&word))
}

/// What else a tag is called.
pub(super) const VERSION_WORDS: [&str; 7] = [
    "commit", "digest", "hash", "revision", "sha", "suffix", "version",
];

/// Every mention in one line of text, in order. Where a name stands alone it is the logical name
/// and no mention.
pub(super) fn mentions(text: &str, place: Place, names: &Names) -> Vec<Mention> {
    words(text)
        .filter_map(|(start, word)| {
            let place = if is_image_behind(&text[..start]) {
                Place::Image
            } else {
                place
            };
            mention(word, &text[start + word.len()..], place, names)
        })
        .collect()
}

/// Pieces that can be a reference, and where each begins: `=` starts one too
/// (`--tag=datastorage:e2e`).
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let ends = |letter: char| letter.is_whitespace() || "\"'`,;=()[]<>|".contains(letter);
    text.split_inclusive(ends)
        .scan(0, move |next, piece| {
            let start = *next;
            *next += piece.len();
            Some((start, piece.trim_end_matches(ends)))
        })
        .filter(|(_, word)| !word.is_empty())
}

/// Whether what follows is an image: `image: `, `IMAGE=`, `"--image", `, `FROM `.
fn is_image_behind(before: &str) -> bool {
    let is_quote = |letter: char| letter.is_whitespace() || "\"'`([".contains(letter);
    let before = before.trim_end_matches(is_quote);
    let is_key = before.ends_with([':', '=']);
    let name = before.trim_end_matches(|letter| is_quote(letter) || ":=,".contains(letter));
    let is_end = |letter: char| !letter.is_alphanumeric() && !"_-.".contains(letter);
    let name = name.rsplit(is_end).next().unwrap_or_default();
    name == "FROM" || name == "--from" || (is_key || name.starts_with("--")) && says_image(name)
}

/// A reference, and what stands behind it in the same line.
fn mention(word: &str, behind: &str, place: Place, names: &Names) -> Option<Mention> {
    // An address, `http://datastorage:8080`, or a transport, `docker://localhost/datastorage:e2e`.
    let (word, place) = match word.split_once("://") {
        Some(("docker" | "containers-storage" | "oci-archive", rest)) => (rest, Place::Image),
        Some(_) => return None,
        None => (word, place),
    };
    // The last of a mapping, `{image: datastorage:e2e}`.
    let word = match word.contains('{') {
        true => word,
        false => word.trim_end_matches('}'),
    };
    let (path, name) = match word.rsplit_once('/') {
        Some((path, name)) => (Some(path), name),
        None => (None, word),
    };
    // `gateway@datastorage` is a token's name; a digest says what it is.
    let image = name;
    let (name, tag) = match name.split_once('@') {
        Some((name, digest)) if digest.starts_with("sha256:") => (name, digest),
        _ => name.split_once(':')?,
    };
    let ours = names.packages.contains(name);
    let filled_name = name.starts_with(['{', '$']) && path == Some("localhost");
    if !ours && !filled_name {
        return None;
    }
    let is_image = match (origin(path), place) {
        (Origin::File, _) => return None,
        (Origin::Repository, _) | (Origin::Unknown, Place::Image) => true,
        (Origin::Unknown, Place::Any) => false,
    };
    if let Some(start) = tag.find(['{', '$']) {
        let is_tag = is_image || is_tag_like(&tag[..start], names) || is_filled_tag(tag, behind);
        return is_tag.then_some(Mention::Filled);
    }
    let is_written = !tag.is_empty()
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
    let is_tag = is_written && (is_image || is_tag_like(tag, names));
    (is_tag && ours).then(|| Mention::Literal {
        image: image.to_owned(),
        tag: tag.to_owned(),
    })
}

/// What the path before a name says.
enum Origin {
    /// `localhost`, `ghcr.io/us`, `$REGISTRY`: the name is an image's.
    Repository,
    /// Nothing, or a variable that can hold anything.
    Unknown,
    /// `/data`, `./data`, `host:/data`: the name is a file's.
    File,
}

/// Names of variables that hold the beginning of a reference.
const REGISTRY_WORDS: [&str; 8] = [
    "host",
    "image",
    "images",
    "namespace",
    "organization",
    "registry",
    "repo",
    "repository",
];

fn origin(path: Option<&str>) -> Origin {
    let Some(path) = path else {
        return Origin::Unknown;
    };
    let first = path.split('/').next().unwrap_or_default();
    if first.starts_with(['{', '$']) {
        return match has_word(first, &REGISTRY_WORDS) {
            true => Origin::Repository,
            false => Origin::Unknown,
        };
    }
    let (host, port) = first.split_once(':').unwrap_or((first, "0"));
    let is_port = port.starts_with(|letter: char| letter.is_ascii_digit() || "{$".contains(letter));
    match is_port && !host.is_empty() && !host.starts_with(['.', '~']) {
        true => Origin::Repository,
        false => Origin::File,
    }
}

/// What tags are called that say nothing of the code.
const TAG_WORDS: [&str; 16] = [
    "canary", "ci", "dev", "e2e", "edge", "head", "latest", "local", "main", "master", "nightly",
    "prod", "snapshot", "stable", "staging", "test",
];

/// Whether a word behind a colon is a tag wherever it stands: one of the usual words, a version, a
/// target's name, a hash, or a number that is too long for a port.
pub(super) fn is_tag_like(tag: &str, names: &Names) -> bool {
    let of_target = |target: &String| {
        tag.strip_prefix(target.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    tag.starts_with("sha256:")
        || names.targets.iter().any(of_target)
        || is_version(tag)
        || tag
            .split(['-', '_', '.'])
            .any(|part| TAG_WORDS.contains(&part) || is_hash(part))
}

/// `v1`, `v1.2-rc1`, `1.2`.
fn is_version(tag: &str) -> bool {
    let digits = tag.strip_prefix('v').unwrap_or(tag);
    let starts = digits.starts_with(|letter: char| letter.is_ascii_digit());
    starts && (digits.len() < tag.len() || digits.contains('.'))
}

/// Seven hex digits or more, as git shortens a hash, and some of them numbers; a date is as long.
fn is_hash(part: &str) -> bool {
    part.len() >= 7
        && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        && part.bytes().any(|byte| byte.is_ascii_digit())
}

/// `${TAG}`, `${{ github.sha }}`: what is filled in is called like a tag. An expression goes on
/// behind the word.
fn is_filled_tag(tag: &str, behind: &str) -> bool {
    let goes_on = tag.contains(['{', '(']) && !tag.contains(['}', ')']) || tag.ends_with('$');
    let end = behind.find(['}', ')']).filter(|_| goes_on);
    let called = |text: &str| has_word(text, &["tag"]) || has_word(text, &VERSION_WORDS);
    called(tag) || called(&behind[..end.unwrap_or(0)])
}

/// Whether a text ends where the tag of one of our images would follow: `localhost/datastorage:`.
/// The first part of its path is a host, as the distribution specification tells one from a path.
pub(super) fn is_opened(text: &str, names: &Names) -> bool {
    let word = words(text).map(|(_, word)| word).last();
    let word = word.filter(|word| text.ends_with(word));
    let Some(reference) = word.and_then(|word| word.strip_suffix(':')) else {
        return false;
    };
    let Some((host, _)) = reference.split_once('/') else {
        return false;
    };
    let is_host = host == "localhost" || host.contains(['.', '{', '$']);
    is_host && is_ours(reference, names)
}

/// Whether a word names one of our images without a tag: `localhost/datastorage`,
/// `$REGISTRY/us/datastorage`. What stands below a folder, `services/datastorage`, is none.
pub(super) fn is_untagged(word: &str, names: &Names) -> bool {
    let reference = word.strip_prefix("docker://").unwrap_or(word);
    // `--tag=localhost/datastorage`.
    let reference = reference.rsplit('=').next().unwrap_or_default();
    let Some((path, name)) = reference.rsplit_once('/') else {
        return false;
    };
    let host = path.split('/').next().unwrap_or_default();
    let is_host = host == "localhost" || host.contains(['.', ':', '{', '$']);
    is_host && matches!(origin(Some(path)), Origin::Repository) && names.packages.contains(name)
}

/// Whether a word names one of our images, with a tag or without: `ghcr.io/us/datastorage`,
/// `docker://$REGISTRY/datastorage:$TAG`, `$DATASTORAGE_IMAGE`. A file is no image.
pub(super) fn is_ours(word: &str, names: &Names) -> bool {
    let files = ["oci-archive:", "docker-archive:", "oci:", "dir:"];
    if files.iter().any(|transport| word.starts_with(transport)) {
        return false;
    }
    let name = word.rsplit('/').next().unwrap_or_default();
    if let Some(variable) = name.strip_prefix(['$', '{']) {
        let end = variable.find(['}', ':']).unwrap_or(variable.len());
        return names_ours(&variable[..end], names);
    }
    let name = name.strip_prefix("containers-storage:").unwrap_or(name);
    let end = name.find([':', '@']).unwrap_or(name.len());
    names.packages.contains(&name[..end])
}

/// `DATASTORAGE_IMAGE`: a variable that is called like one of our packages.
fn names_ours(variable: &str, names: &Names) -> bool {
    let words: String = variable
        .to_lowercase()
        .replace(|letter: char| !letter.is_alphanumeric(), "_");
    names
        .packages
        .iter()
        .any(|package| format!("_{words}_").contains(&format!("_{}_", package.replace('-', "_"))))
}

#[cfg(test)]
mod tests {
    use super::{Mention, Names, Place, mentions};

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let names = Names {
            packages: ["datastorage", "gateway"].map(str::to_owned).into(),
            targets: ["gateway".to_owned()].into(),
        };
        let found: Vec<String> = mentions(text, Place::Any, &names)
            .into_iter()
            .map(|mention| match mention {
                Mention::Literal { image, .. } => image,
                Mention::Filled => "filled".to_owned(),
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn names_with_tags() {
        check("localhost/datastorage:e2e-test", &["datastorage:e2e-test"]);
        check("docker build -t datastorage:e2e .", &["datastorage:e2e"]);
        check("--tag=ghcr.io/x/gateway:v1", &["gateway:v1"]);
        check("docker://localhost/datastorage:e2e", &["datastorage:e2e"]);
    }

    #[test]
    fn filled_tags() {
        check("datastorage:${TAG}", &["filled"]);
        check("localhost/datastorage:{}", &["filled"]);
        check("localhost/{package}:{tag}", &["filled"]);
        check("datastorage:e2e-$(date +%s)", &["filled"]);
    }

    #[test]
    fn addresses_and_logical_names_are_none() {
        check("http://datastorage:8080/api", &[]);
        check("datastorage:8080", &[]);
        check("datastorage:{port}", &[]);
        check("image: datastorage", &[]);
        check("postgres:15-bookworm", &[]);
        check("token:datastorage", &[]);
        check("tokens/gateway@datastorage", &[]);
    }
}
