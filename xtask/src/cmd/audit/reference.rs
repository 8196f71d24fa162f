//! What in a text names one of our images: a literal tag, or a tag that is filled in. An address
//! with a port is none.

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

/// Every mention in one line of text, in order. Where a name stands alone it is the logical name
/// and no mention.
pub(super) fn mentions(text: &str, names: &Names) -> Vec<Mention> {
    words(text)
        .filter_map(|word| mention(word, names))
        .collect()
}

/// Pieces that can be a reference: `=` starts one too (`--tag=datastorage:e2e`).
fn words(text: &str) -> impl Iterator<Item = &str> {
    let ends = |letter: char| letter.is_whitespace() || "\"'`,;=()[]<>|".contains(letter);
    text.split(ends).filter(|word| !word.is_empty())
}

fn mention(word: &str, names: &Names) -> Option<Mention> {
    // An address, `http://datastorage:8080`, or a transport, `docker://localhost/datastorage:e2e`.
    let word = match word.split_once("://") {
        Some(("docker" | "containers-storage" | "oci-archive", rest)) => rest,
        Some(_) => return None,
        None => word,
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
    if tag.contains(['{', '$']) {
        let is_port = tag.to_ascii_lowercase().contains("port");
        return (!is_port).then_some(Mention::Filled);
    }
    let is_port = !tag.is_empty()
        && tag
            .split('/')
            .next()?
            .bytes()
            .all(|byte| byte.is_ascii_digit());
    let is_tag = tag
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
    (!is_port && is_tag && !tag.is_empty() && ours).then(|| Mention::Literal {
        image: image.to_owned(),
        tag: tag.to_owned(),
    })
}

/// Whether a text ends where the tag of one of our images would follow: `localhost/datastorage:`.
/// The first part of its path is a host, as the distribution specification tells one from a path.
pub(super) fn is_opened(text: &str, names: &Names) -> bool {
    let word = words(text).last().filter(|word| text.ends_with(word));
    let Some(reference) = word.and_then(|word| word.strip_suffix(':')) else {
        return false;
    };
    let Some((host, _)) = reference.split_once('/') else {
        return false;
    };
    let is_host = host == "localhost" || host.contains(['.', '{', '$']);
    is_host && is_ours(reference, names)
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
    use super::{Mention, Names, mentions};

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let names = Names {
            packages: ["datastorage", "gateway"].map(str::to_owned).into(),
            targets: ["gateway".to_owned()].into(),
        };
        let found: Vec<String> = mentions(text, &names)
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
