//! What an edit asks for: nothing, a cycle on the deployment that stands, or another deployment.
//! Which of its containers are then made anew, the cluster decides by what it sees of each.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::digest::Digest;
use crate::manifest::Manifests;
use crate::pipeline::Images;
use crate::pipeline::tag::Tagged;
use crate::secrets;
use crate::source::workspace::{Target, Workspace};

/// Everything that a cycle is a function of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// The reference of each image, by package.
    references: BTreeMap<String, String>,
    /// The digest of each manifest, by file.
    manifests: BTreeMap<String, Digest>,
    tests: Digest,
    /// What services and third parties declare of each other: tokens and passwords follow from it.
    declared: Digest,
    /// What every target is tested against.
    against: String,
    /// Manifests of third parties, by file.
    third_party: Vec<String>,
}

impl Fingerprint {
    /// Of what was just read.
    pub(super) fn of(
        workspace: &Workspace,
        target: &Target,
        manifests: &Manifests,
        images: &Images<Tagged>,
    ) -> Result<Self> {
        let references = images.iter();
        let snapshot = images.frozen().snapshot();
        Ok(Self {
            references: references
                .map(|(package, image)| (package.to_string(), image.reference().to_string()))
                .collect(),
            manifests: manifests.digests().clone(),
            tests: snapshot.package(&workspace.tests).source(),
            declared: secrets::declared_digest(workspace, target)?,
            against: workspace.against.to_string(),
            third_party: target.third_party().iter().map(manifest_of).collect(),
        })
    }

    /// The manifests that are not as they were, by file.
    pub(super) fn other_manifests<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let files = self.manifests.keys().chain(other.manifests.keys());
        let differs = |file: &&String| self.manifests.get(*file) != other.manifests.get(*file);
        let mut files: Vec<&str> = files.filter(differs).map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        files.into_iter()
    }
}

fn manifest_of(name: impl AsRef<str>) -> String {
    format!("{}/{}.yaml", crate::manifest::FOLDER, name.as_ref())
}

/// What is deployed in a cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// What is seen to be other than it should be now, on the deployment that stands.
    Part,
    /// Everything, as a run of its own, and why.
    Whole(String),
}

/// From the deployment that stands to what is there now.
pub(super) fn change(before: &Fingerprint, after: &Fingerprint) -> Change {
    let whole = |why: String| Change::Whole(why);
    if before.declared != after.declared || before.references.len() != after.references.len() {
        return whole("what services declare of each other is another".to_owned());
    }
    let against = &after.against;
    if before.references.get(against) != after.references.get(against) {
        return whole(format!(
            "{against} is another, and its database begins empty"
        ));
    }
    let edited = before.other_manifests(after);
    let mut theirs = edited.filter(|file| after.third_party.iter().any(|theirs| theirs == file));
    match theirs.next() {
        Some(file) => whole(format!("{file} is another, and what it runs begins empty")),
        None => Change::Part,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Change, Fingerprint, change};
    use crate::digest::Digest;

    fn fingerprint() -> Fingerprint {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let reference = |package: &str| (package.to_owned(), format!("localhost/{package}:t-1"));
        let manifest = |name: &str| (format!("deploy/{name}.yaml"), digest(name));
        Fingerprint {
            references: BTreeMap::from(["gateway", "datastorage"].map(reference)),
            manifests: BTreeMap::from(["gateway", "datastorage", "postgres"].map(manifest)),
            tests: digest("tests"),
            declared: digest("declared"),
            against: "datastorage".to_owned(),
            third_party: vec!["deploy/postgres.yaml".to_owned()],
        }
    }

    /// `why` is a word of the reason for another deployment; none: it goes on.
    #[track_caller]
    fn check(why: Option<&str>, edit: impl FnOnce(&mut Fingerprint)) {
        let before = fingerprint();
        let mut after = fingerprint();
        edit(&mut after);
        match (change(&before, &after), why) {
            (Change::Part, None) => {}
            (Change::Whole(told), Some(why)) => assert!(told.contains(why), "{told}"),
            (change, why) => panic!("{change:?}, expected {why:?}"),
        }
    }

    fn other(manifest: &str) -> impl FnOnce(&mut Fingerprint) {
        let file = format!("deploy/{manifest}.yaml");
        move |after| {
            after.manifests.insert(file, Digest::of(b"other"));
        }
    }

    #[test]
    fn an_edit_asks_for_as_little_as_it_can() {
        check(None, |_| {});
        check(None, |after| after.tests = Digest::of(b"other"));
        check(None, |after| {
            let reference = "localhost/gateway:t-2".to_owned();
            after.references.insert("gateway".to_owned(), reference);
        });
        check(None, other("gateway"));
        check(None, other("datastorage"));
    }

    #[test]
    fn a_database_never_outlives_what_fills_it() {
        check(Some("datastorage is another"), |after| {
            let reference = "localhost/datastorage:t-2".to_owned();
            after.references.insert("datastorage".to_owned(), reference);
        });
        check(Some("deploy/postgres.yaml"), other("postgres"));
    }

    #[test]
    fn what_tokens_follow_from_is_never_half_there() {
        check(Some("declare"), |after| {
            after.declared = Digest::of(b"other");
        });
        check(Some("declare"), |after| {
            let reference = "localhost/testbed:t-1".to_owned();
            after.references.insert("testbed".to_owned(), reference);
        });
    }

    #[test]
    fn manifests_that_differ_are_named() {
        let before = fingerprint();
        let mut after = fingerprint();
        other("gateway")(&mut after);
        after.manifests.remove("deploy/postgres.yaml");
        let named: Vec<&str> = before.other_manifests(&after).collect();
        assert_eq!(named, ["deploy/gateway.yaml", "deploy/postgres.yaml"]);
        assert_eq!(before.other_manifests(&before).count(), 0);
    }
}
