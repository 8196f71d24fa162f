//! What a command line does to images, told by its words: which program, which verb, which names.
//! Options may stand anywhere before the verb. The verbs are those of each program's own manual.

use super::reference::{Mention, Names, Place, has_word, is_ours, is_untagged, mentions};
use super::scan::Pattern;

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// The line it stands in.
    pub(super) line: usize,
    /// The word; the name of what is filled in.
    pub(super) text: String,
    /// `$VERB`, `{verb}`, a variable: it can be any word.
    pub(super) filled: bool,
}

impl Word {
    /// A word as it stands in a command line.
    pub(super) fn literal(line: usize, text: &str) -> Self {
        Self {
            line,
            text: text.to_owned(),
            filled: text.starts_with(['$', '{']),
        }
    }

    /// What a variable holds.
    pub(super) fn variable(line: usize, name: &str) -> Self {
        Self {
            line,
            text: format!("{{{name}}}"),
            filled: true,
        }
    }

    fn is(&self, text: &str) -> bool {
        !self.filled && self.text == text
    }

    fn is_option(&self) -> bool {
        !self.filled && self.text.starts_with('-')
    }

    /// `sudo /usr/bin/podman` calls podman; `$DOCKER` calls whatever engine it holds.
    fn program(&self) -> Option<&'static str> {
        if self.filled && has_word(&self.text, &ENGINE_WORDS) {
            return Some(ENGINE);
        }
        let name = self.text.rsplit('/').next().unwrap_or_default();
        PROGRAMS.into_iter().find(|program| *program == name)
    }
}

/// A wrong pattern and the line of its verb.
pub(super) type Found = (usize, Pattern);

const PROGRAMS: [&str; 14] = [
    "buildah",
    "crane",
    "crictl",
    "ctr",
    "docker",
    "helm",
    "kind",
    "kubectl",
    "kustomize",
    "minikube",
    "nerdctl",
    "oc",
    "podman",
    "regctl",
];

/// Names of variables that hold an engine.
const ENGINE_WORDS: [&str; 6] = [
    "buildah", "docker", "engine", "nerdctl", "podman", "runtime",
];

/// An engine like any other.
const ENGINE: &str = "docker";

/// Copies images from one name to another, and nothing else, so it is a program of its own here.
const SKOPEO: &str = "skopeo";

/// Words that stand between a program and its verb: `docker image tag`, `ctr i tag`.
const GROUPS: [&str; 6] = ["builder", "buildx", "container", "i", "image", "images"];

/// Verbs that make, start or send the images that they name.
const USES: [&str; 7] = ["build", "bud", "commit", "create", "push", "run", "save"];

/// Options of these verbs whose value looks like an image and is none.
const NO_IMAGES: [&str; 4] = ["--add-host", "--env", "--link", "-e"];

/// What the commands of a line do. `docker exec node ctr images tag` is a command in a command.
pub(super) fn in_line(line: usize, text: &str, names: &Names) -> Vec<Found> {
    let words: Vec<Word> = text
        .split_whitespace()
        .map(|word| match word.ends_with(')') {
            // `$(DOCKER)` of a Makefile.
            true => word,
            false => word.strip_prefix("$(").unwrap_or(word),
        })
        .map(|word| word.trim_matches(|letter: char| "\"'`,()[]".contains(letter)))
        .filter(|word| !word.is_empty())
        .map(|word| Word::literal(line, word))
        .collect();
    words
        .split(|word| ["&&", "||", ";", "|"].contains(&word.text.as_str()))
        .flat_map(|command| in_words(command, names))
        .collect()
}

/// What each program that is called in a list of words does.
pub(super) fn in_words(words: &[Word], names: &Names) -> Vec<Found> {
    let mut found: Vec<Found> = sets_value(words).collect();
    for (index, word) in words.iter().enumerate() {
        let rest = &words[index + 1..];
        if word.is(SKOPEO) || word.text.ends_with("/skopeo") {
            found.extend(copies(rest, &["copy"], names));
        } else if let Some(program) = word.program() {
            found.extend(after_program(program, rest, names));
            found.extend(uses(program, rest, names));
        }
    }
    found
}

/// The arguments of a program that is not named where they stand.
pub(super) fn in_arguments(words: &[Word], names: &Names) -> Option<Found> {
    renames(words)
        .or_else(|| fetches(words, names))
        .or_else(|| sets_image(words, &["set", "image"]))
        .or_else(|| {
            let mut images = images(words).into_iter();
            images.find_map(|word| leaves_out_tag(word, names))
        })
}

/// Uses images under a name that says nothing of the code.
fn uses(program: &str, words: &[Word], names: &Names) -> Option<Found> {
    let images = match program {
        "helm" | "kubectl" | "kustomize" | "oc" => return None,
        "kind" => verb(words, &["load", "docker-image"])?.1.iter().collect(),
        "minikube" => verb(words, &["load"])?.1.iter().collect(),
        _ => images(words),
    };
    images
        .into_iter()
        .find_map(|word| leaves_out_tag(word, names).or_else(|| has_bare_tag(word, names)))
}

/// The words after `run`, `build` and the like that can be images: all that are no options, and
/// where a container is started none behind the image. A word after an option may be its value.
fn images(words: &[Word]) -> Vec<&Word> {
    let Some((verb, operands)) = USES
        .iter()
        .find_map(|wanted| Some((*wanted, verb(words, &[wanted])?.1)))
    else {
        return Vec::new();
    };
    let mut images = Vec::new();
    let mut option: Option<&Word> = None;
    for word in operands {
        let is_value = option.is_some_and(|option| NO_IMAGES.contains(&option.text.as_str()));
        if !is_value && (!word.is_option() || word.text.starts_with("--tag=")) {
            images.push(word);
        }
        let is_first = option.is_none() && !word.is_option() && !word.filled;
        if is_first && ["create", "run"].contains(&verb) {
            break;
        }
        option = Some(word).filter(|word| word.is_option() && !word.text.contains('='));
    }
    images
}

/// `localhost/datastorage` is `localhost/datastorage:latest`.
fn leaves_out_tag(word: &Word, names: &Names) -> Option<Found> {
    is_untagged(&word.text, names).then_some((word.line, Pattern::FixedTag))
}

/// `datastorage:15`, which would be an address anywhere else.
fn has_bare_tag(word: &Word, names: &Names) -> Option<Found> {
    if word.text.contains('=') || !mentions(&word.text, Place::Any, names).is_empty() {
        return None;
    }
    let pattern = match mentions(&word.text, Place::Image, names).first()? {
        Mention::Literal { .. } => Pattern::FixedTag,
        Mention::Filled => Pattern::MadeAtDeployTime,
    };
    Some((word.line, pattern))
}

fn after_program(program: &str, words: &[Word], names: &Names) -> Option<Found> {
    match program {
        "helm" => None,
        "kubectl" => sets_image(words, &["set", "image"]),
        "kustomize" => sets_image(words, &["edit", "set", "image"]),
        "oc" => sets_image(words, &["set", "image"]).or_else(|| renames(words)),
        "crane" | "regctl" => renames(words)
            .or_else(|| fetches(words, names))
            .or_else(|| copies(words, &["copy"], names))
            .or_else(|| copies(words, &["cp"], names)),
        _ => renames(words).or_else(|| fetches(words, names)),
    }
}

/// `tag OLD NEW`: a verb without names is prose.
fn renames(words: &[Word]) -> Option<Found> {
    let (line, operands) = verb(words, &["tag"])?;
    (!operands.is_empty()).then_some((line, Pattern::ReTag))
}

/// `copy FROM TO` gives another name where the second is one of our images.
fn copies(words: &[Word], wanted: &[&str], names: &Names) -> Option<Found> {
    let (line, operands) = verb(words, wanted)?;
    let is_name = |word: &&Word| word.filled || word.text.contains([':', '/']);
    let mut operands = operands.iter().filter(|word| !word.is_option());
    operands.find(is_name)?;
    operands
        .any(|word| is_ours(&word.text, names))
        .then_some((line, Pattern::ReTag))
}

/// `pull NAME`, of one of our images: whoever built it, it was not this run.
fn fetches(words: &[Word], names: &Names) -> Option<Found> {
    let (line, operands) = verb(words, &["pull"])?;
    operands
        .iter()
        .any(|word| is_ours(&word.text, names))
        .then_some((line, Pattern::SharedImage))
}

/// Puts another image into what is deployed already.
fn sets_image(words: &[Word], wanted: &[&str]) -> Option<Found> {
    let (line, operands) = verb(words, wanted)?;
    (!operands.is_empty()).then_some((line, Pattern::MadeAtDeployTime))
}

/// `--set image.tag=x`, `--set=datastorage.image.repository=x`: values of a Helm chart.
fn sets_value(words: &[Word]) -> impl Iterator<Item = Found> {
    let options = ["--set", "--set-string", "--set-literal"];
    words.iter().enumerate().filter_map(move |(index, word)| {
        let value = match word.text.split_once('=') {
            Some((option, value)) if options.contains(&option) => value,
            None if options.contains(&word.text.as_str()) => &words.get(index + 1)?.text,
            _ => return None,
        };
        value
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .any(|(key, _)| {
                [".image.tag", ".image.repository", ".image"]
                    .iter()
                    .any(|end| format!(".{key}").ends_with(end))
            })
            .then_some((word.line, Pattern::MadeAtDeployTime))
    })
}

/// The line of the verb, and what follows it, where nothing but options and their values stands
/// before it. A word after an option may be its value, so it is no other verb.
fn verb<'w>(words: &'w [Word], wanted: &[&str]) -> Option<(usize, &'w [Word])> {
    let mut after_option = false;
    for (index, word) in words.iter().enumerate() {
        let rest = &words[index..];
        if rest.len() >= wanted.len() && rest.iter().zip(wanted).all(|(word, text)| word.is(text)) {
            return Some((word.line, &rest[wanted.len()..]));
        }
        let passed = word.filled || word.is_option() || GROUPS.contains(&word.text.as_str());
        if !passed && !after_option {
            return None;
        }
        after_option = word.is_option() && !word.text.contains('=');
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::reference::Names;
    use super::super::scan::Pattern;
    use super::in_line;

    #[track_caller]
    fn check(text: &str, expected: Option<Pattern>) {
        let names = Names {
            packages: ["datastorage".to_owned()].into(),
            targets: ["gateway".to_owned()].into(),
        };
        let found = in_line(1, text, &names);
        let patterns: Vec<Pattern> = found.into_iter().map(|(_, pattern)| pattern).collect();
        assert_eq!(patterns, Vec::from_iter(expected), "{text}");
    }

    #[test]
    fn other_names() {
        for text in [
            "docker tag $OLD $NEW",
            "docker image tag a b",
            "sudo /usr/bin/podman --root /x tag a b",
            "podman --root=/x image tag a b",
            "podman {options...} tag {a} {b}",
            "buildah tag a b",
            "nerdctl -n k8s.io tag a b",
            "ctr -n k8s.io images tag a b",
            "ctr i tag a b",
            "docker exec node ctr --namespace k8s.io image tag a b",
            "skopeo --debug copy docker://a/b:c containers-storage:localhost/datastorage:d",
            "skopeo copy --format v2s2 $OLD docker://$REGISTRY/datastorage:$NEW",
            "crane copy a/b:c localhost/datastorage:d",
            "true && docker tag a b",
        ] {
            check(text, Some(Pattern::ReTag));
        }
    }

    #[test]
    fn fetched_and_set() {
        for text in [
            "crictl pull ghcr.io/us/datastorage",
            "ctr -n k8s.io images pull ghcr.io/us/datastorage:v1",
            "nerdctl pull datastorage:v1",
            "docker image pull ${REGISTRY}/datastorage@sha256:00",
            "podman pull {datastorage_image}",
        ] {
            check(text, Some(Pattern::SharedImage));
        }
        for text in [
            "kubectl set image deployment/a b=c",
            "kubectl -n {namespace} set image deployment/a b=c",
            "kustomize edit set image a=b",
            "helm upgrade a b --set image.tag=$TAG",
            "helm upgrade a b --set=x=y,datastorage.image.tag=$TAG",
        ] {
            check(text, Some(Pattern::MadeAtDeployTime));
        }
    }

    #[test]
    fn what_looks_like_it() {
        for text in [
            "docker build --tag datastorage .",
            "docker run --name tag busybox",
            "docker image ls tag",
            "the docker image has a tag",
            "git tag v1",
            "docker tag",
            "docker pull postgres:15",
            "docker pull ghcr.io/datastorage/postgres:15",
            "docker push datastorage",
            "skopeo copy docker://postgres:15 oci-archive:out/datastorage.tar",
            "skopeo copy docker://a/datastorage:x dir:/tmp/x",
            "skopeo inspect docker://datastorage",
            "kubectl set env deployment/a image=b",
            "helm upgrade a b --set image.pullPolicy=Never",
            "kubectl get image tag",
        ] {
            check(text, None);
        }
    }
}
