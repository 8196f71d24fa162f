//! Where images are named: `localhost`, or a registry's `host[:port]/path`. Part of every reference
//! from phase 0 on, so that what is built, pushed and deployed has one name. Refuses whatever would
//! bring a tag or a digest along: those are computed.

use std::fmt;
use std::str::FromStr;

/// What a reference may have before the package, in characters: distribution allows 255 in all.
const LENGTH_MAX: usize = 160;

/// Where images are named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository(String);

/// Why a text names no place in a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no place in a registry: {why}")]
pub struct NoRepository {
    text: String,
    why: String,
}

impl Repository {
    /// Of images that are loaded, not pushed.
    #[must_use]
    pub fn localhost() -> Self {
        Self("localhost".to_owned())
    }

    /// Whether a registry can hold it.
    #[must_use]
    pub fn is_in_a_registry(&self) -> bool {
        self.0 != "localhost"
    }

    /// Whether its registry is on this machine, where it may speak plain http.
    #[must_use]
    pub fn is_on_this_machine(&self) -> bool {
        let host = self.0.split(['/', ':']).next().unwrap_or_default();
        self.is_in_a_registry() && ["localhost", "127.0.0.1"].contains(&host)
    }

    /// The registry's `host[:port]`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Repository {
    type Err = NoRepository;

    fn from_str(text: &str) -> Result<Self, NoRepository> {
        match objection(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(NoRepository {
                text: text.to_owned(),
                why,
            }),
        }
    }
}

/// What is wrong with it, and what would be right.
fn objection(text: &str) -> Option<String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Some(format!(
            "leave `{scheme}://` out: {}",
            example(rest.trim_end_matches('/'))
        ));
    }
    if let Some((name, _)) = text.split_once('@') {
        return Some(format!(
            "leave the digest out, it is computed: {}",
            example(name)
        ));
    }
    if text.chars().any(|character| character.is_ascii_uppercase()) {
        return Some(format!(
            "registries know lower case alone: {}",
            example(&text.to_ascii_lowercase())
        ));
    }
    if text.len() > LENGTH_MAX {
        return Some(format!("it is longer than {LENGTH_MAX} characters"));
    }
    let Some((host, path)) = text.split_once('/') else {
        return Some(format!(
            "it has no path: {}",
            example(&format!("{text}/team"))
        ));
    };
    if let Some((name, _)) = path.rsplit_once(':') {
        return Some(format!(
            "leave the tag out, it is computed: {}",
            example(&format!("{host}/{name}"))
        ));
    }
    objection_to_host(host, path).or_else(|| {
        path.split('/')
            .find(|part| !is_component(part))
            .map(|part| match part {
                "" => "it has an empty part: one `/` between two names, and none at the end"
                    .to_owned(),
                part => format!(
                    "`{part}` is no part of a path: lower-case letters and digits, with `.`, `_` or `-` between them"
                ),
            })
    })
}

fn objection_to_host(host: &str, path: &str) -> Option<String> {
    if host == "localhost" {
        return Some(format!(
            "`localhost` alone is the name of images that are in no registry; say its port: `localhost:5000/{path}`"
        ));
    }
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    if port.is_none() && !name.contains('.') {
        return Some(format!(
            "`{host}` is no host: the host comes first, with a dot or a port in it: `registry.example.org/{host}/{path}`"
        ));
    }
    if let Some(port) = port
        && (port.parse::<u16>().is_err() || port.starts_with(['+', '0']))
    {
        return Some(format!("`{port}` is no port"));
    }
    let is_label = |label: &str| {
        let inner = |character: char| character.is_ascii_alphanumeric() || character == '-';
        !label.is_empty()
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (!name.split('.').all(is_label)).then(|| format!("`{name}` is no name of a host"))
}

/// As distribution has it, but no run of separators: those look alike.
fn is_component(part: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit())
    };
    part.split(['.', '_', '-']).all(is_word)
}

fn example(right: &str) -> String {
    match objection(right) {
        None => format!("`{right}`"),
        // One thing after the other.
        Some(_) => "`host[:port]/path`, as in `registry.example.org/team`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Repository;

    #[track_caller]
    fn check(text: &str, words: &str) {
        let error = text.parse::<Repository>().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{text}` is no place")),
            "{error}"
        );
        assert!(error.contains(words), "`{words}` is not in: {error}");
    }

    #[test]
    fn what_is_no_place_is_refused_with_words() {
        check(
            "https://registry.example.org/team/",
            "leave `https://` out: `registry.example.org/team`",
        );
        check("docker://r.example.org", "`host[:port]/path`");
        check(
            "r.example.org/team:1",
            "leave the tag out, it is computed: `r.example.org/team`",
        );
        check("r.example.org:5000/team:latest", "leave the tag out");
        check("r.example.org/team@sha256:00", "leave the digest out");
        check("r.example.org/team:1@sha256:00", "leave the digest out");
        check("ghcr.io/Team", "lower case alone: `ghcr.io/team`");
        check("team/images", "`team` is no host");
        check("r.example.org", "no path: `r.example.org/team`");
        check("127.0.0.1:5000", "no path");
        check("localhost", "no path");
        check("localhost/team", "say its port: `localhost:5000/team`");
        check("r.example.org/", "an empty part");
        check("r.example.org/a//b", "an empty part");
        check("r.example.org/a b", "`a b` is no part of a path");
        check("r.example.org/-a", "`-a` is no part of a path");
        check("r.example.org/a__b", "`a__b` is no part");
        check("r.example.org:x/a", "`x` is no port");
        check("r.example.org:70000/a", "`70000` is no port");
        check("r.example.org:/a", "`` is no port");
        check("-r.example.org/a", "no name of a host");
        check("[::1]:5000/a", "no port");
        check("", "no path");
        check(&format!("r.example.org/{}", "a".repeat(200)), "longer than");
    }

    #[test]
    fn what_is_one_is_taken_as_it_is_written() {
        for (text, host, here) in [
            ("ghcr.io/us/phase-zero", "ghcr.io", false),
            ("registry:5000/a", "registry:5000", false),
            ("127.0.0.1:5000/a/b.c", "127.0.0.1:5000", true),
            ("localhost:5000/a", "localhost:5000", true),
            ("127.0.0.1.example.org/a", "127.0.0.1.example.org", false),
            ("localhost.example.org/a", "localhost.example.org", false),
        ] {
            let repository: Repository = text.parse().unwrap();
            assert_eq!(repository.to_string(), text);
            assert_eq!(repository.host(), host);
            assert_eq!(repository.is_on_this_machine(), here, "{text}");
            assert!(repository.is_in_a_registry());
        }
        assert!(!Repository::localhost().is_in_a_registry());
        assert!(!Repository::localhost().is_on_this_machine());
    }
}
