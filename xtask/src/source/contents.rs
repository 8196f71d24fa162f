//! From what was seen at the paths of a closure to its entries: what is gone is left out, links are
//! followed. Refuses a link whose end is not in the closure.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};

use super::closure::{self, Sources, folders_above};
use super::reading::Problem;
use super::seen::{LeadsTo, Seen, SeenPaths};
use super::snapshot::{Entry, EntryKind, Scope};

/// What was seen of one closure, by path in byte order, each with its package.
pub(crate) struct Contents<'a> {
    seen: Vec<(&'a str, (&'a str, &'a Seen))>,
    generated: &'a BTreeMap<Utf8PathBuf, Vec<u8>>,
}

impl<'a> Contents<'a> {
    /// Of these packages, without the manifests, which are generated.
    pub(crate) fn new(
        sources: &'a Sources<'_>,
        scopes: &BTreeMap<&'a str, Scope>,
        seen: &'a SeenPaths,
        generated: &'a BTreeMap<Utf8PathBuf, Vec<u8>>,
    ) -> Self {
        let mut owned = Vec::new();
        for (package, scope) in scopes {
            let mut paths = sources.paths(package, *scope).peekable();
            let Some(first) = paths.peek() else {
                continue;
            };
            // Both are in byte order, so each is gone through once.
            let mut seen = seen.since(first).iter().peekable();
            for path in paths {
                while seen.next_if(|(other, _)| other.as_str() < path).is_some() {}
                let is_generated =
                    path.ends_with("Cargo.toml") && generated.contains_key(Utf8Path::new(path));
                let found = seen.next_if(|(other, _)| other == path);
                if let Some((_, found)) = found.filter(|_| !is_generated) {
                    owned.push((path, (*package, found)));
                }
            }
        }
        owned.sort_by_key(|(path, _)| *path);
        let links = owned
            .iter()
            .filter(|(_, (_, seen))| matches!(seen, Seen::Link { .. }));
        let links: BTreeSet<&str> = links.map(|(path, _)| *path).collect();
        if !links.is_empty() {
            // A folder that became a link: git still lists what was in it, and that is gone.
            owned.retain(|(path, _)| !folders_above(path).any(|folder| links.contains(folder)));
        }
        Self {
            seen: owned,
            generated,
        }
    }

    /// Every entry with its package, in byte order of their paths.
    pub(crate) fn entries(&self) -> (Vec<(Entry, &'a str)>, Vec<Problem>) {
        let mut entries: Vec<(Entry, &'a str)> = Vec::with_capacity(self.seen.len());
        let entry = |path: &str, kind| Entry {
            path: path.into(),
            kind,
        };
        let mut problems = Vec::new();
        let mut has_links = false;
        for (path, (package, seen)) in &self.seen {
            match seen {
                Seen::Missing => {}
                // A file of that name is deleted, and what has taken its place is listed.
                Seen::Folder if self.below(path).next().is_some() => {}
                Seen::Folder => problems.push(closure::nested(Utf8Path::new(path))),
                Seen::File(file) => {
                    let kind = EntryKind::File {
                        digest: file.digest,
                        length_bytes: file.length_bytes,
                        executable: file.executable,
                    };
                    entries.push((entry(path, kind), *package));
                }
                Seen::Link { target, leads_to } => match self.follow(path, target, leads_to) {
                    Ok(links) => {
                        has_links = true;
                        let links = links.into_iter();
                        entries.extend(links.map(|(path, kind)| (entry(&path, kind), *package)));
                    }
                    Err(problem) => problems.push(problem),
                },
            }
        }
        if has_links {
            // What a linked folder holds comes where the link stands, and may belong further down.
            entries.sort_by(|(one, _), (other, _)| one.path.as_str().cmp(other.path.as_str()));
            // And a name that git remembers below what is now a link is found a second time.
            entries.dedup_by(|(one, _), (other, _)| one.path == other.path);
        }
        (entries, problems)
    }

    /// What lies in a folder, at any depth, by its path within the folder.
    fn below(&self, folder: &str) -> impl Iterator<Item = (&'a str, &'a Seen)> {
        let start = format!("{folder}/");
        let length = start.len();
        let first = self
            .seen
            .partition_point(|(path, _)| *path < start.as_str());
        let below = self.seen[first..].iter();
        let below = below.take_while(move |(path, _)| path.starts_with(&start));
        below.map(move |(path, (_, seen))| (&path[length..], *seen))
    }

    /// A link to a file is one entry; a link to a folder is one for each file in it.
    fn follow(
        &self,
        path: &str,
        target: &Utf8Path,
        leads_to: &LeadsTo,
    ) -> Result<BTreeMap<String, EntryKind>, Problem> {
        let fix = "make it lead to a file of this package or of one that it depends on, or copy it";
        let problem = |what: String| Problem::new(Utf8Path::new(path), what, fix);
        let end = match leads_to {
            LeadsTo::Inside(end) => end,
            LeadsTo::Outside(end) => {
                return Err(problem(format!(
                    "is a link that leaves the workspace, to {end}"
                )));
            }
            LeadsTo::Nowhere(why) => {
                return Err(problem(format!(
                    "is a link to {target}, which leads nowhere: {why}"
                )));
            }
        };
        if self.generated.contains_key(end) {
            let what = format!("is a link to {end}, a manifest, which builds get in another form");
            return Err(problem(what));
        }
        let found = self
            .seen
            .binary_search_by(|(path, _)| (*path).cmp(end.as_str()));
        let found = found.ok().map(|place| self.seen[place].1.1);
        if let Some(kind) = found.and_then(|seen| link(target, seen)) {
            return Ok(BTreeMap::from([(path.to_owned(), kind)]));
        }
        if Utf8Path::new(path).starts_with(end) {
            return Err(problem(format!(
                "is a link to the folder {end} that it lies in"
            )));
        }
        let mut links = BTreeMap::new();
        for (within, seen) in self.below(end.as_str()) {
            if matches!(seen, Seen::Missing | Seen::Folder) {
                continue;
            }
            let kind = link(&target.join(within), seen).ok_or_else(|| {
                problem(format!(
                    "is a link to the folder {end}, where {within} is a link again"
                ))
            })?;
            links.insert(format!("{path}/{within}"), kind);
        }
        if links.is_empty() {
            let what = format!("is a link to {end}, which is not among the sources of the package");
            return Err(problem(what));
        }
        Ok(links)
    }
}

fn link(target: &Utf8Path, seen: &Seen) -> Option<EntryKind> {
    match seen {
        Seen::File(file) => Some(EntryKind::Link {
            target: target.to_owned(),
            digest: file.digest,
            executable: file.executable,
        }),
        Seen::Link { .. } | Seen::Folder | Seen::Missing => None,
    }
}
