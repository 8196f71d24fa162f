//! From what was seen at the paths of a closure to its entries: what is gone is left out, links are
//! followed. Refuses a link whose end is not in the closure.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};

use super::closure::{self, Closure, Listing};
use super::reading::Problem;
use super::seen::{LeadsTo, Seen};
use super::snapshot::{Entry, EntryKind};

/// What was seen of one closure.
pub(crate) struct Owned<'a> {
    seen: BTreeMap<&'a Utf8Path, &'a Seen>,
    generated: &'a BTreeMap<Utf8PathBuf, Vec<u8>>,
}

impl<'a> Owned<'a> {
    pub(crate) fn of(
        closure: &Closure<'_>,
        seen: &'a BTreeMap<Utf8PathBuf, Seen>,
        listing: &'a Listing,
        generated: &'a BTreeMap<Utf8PathBuf, Vec<u8>>,
    ) -> Self {
        let owned = listing
            .paths
            .iter()
            .filter(|path| closure.owner(path).is_some());
        let owned = owned.filter(|path| !generated.contains_key(*path));
        let owned: BTreeMap<&Utf8Path, &Seen> = owned
            .filter_map(|path| Some((path.as_path(), seen.get(path)?)))
            .collect();
        let is_link = |path: &Utf8Path| matches!(owned.get(path), Some(Seen::Link { .. }));
        // A folder that became a link: git still lists what was in it, and that is gone.
        let gone = |path: &Utf8Path| path.ancestors().skip(1).any(is_link);
        let seen = owned.iter().filter(|(path, _)| !gone(path));
        Self {
            seen: seen.map(|(path, seen)| (*path, *seen)).collect(),
            generated,
        }
    }

    pub(crate) fn entries(&self) -> (Vec<Entry>, Vec<Problem>) {
        let mut entries = BTreeMap::new();
        let mut problems = Vec::new();
        for (path, seen) in &self.seen {
            match seen {
                Seen::Missing => {}
                // A file of that name is deleted, and what has taken its place is listed.
                Seen::Folder if self.below(path).next().is_some() => {}
                Seen::Folder => problems.push(closure::nested(path)),
                Seen::File {
                    digest,
                    length_bytes,
                    executable,
                    ..
                } => {
                    let kind = EntryKind::File {
                        digest: *digest,
                        length_bytes: *length_bytes,
                        executable: *executable,
                    };
                    entries.insert(path.to_path_buf(), kind);
                }
                Seen::Link { target, leads_to } => match self.follow(path, target, leads_to) {
                    Ok(links) => entries.extend(links),
                    Err(problem) => problems.push(problem),
                },
            }
        }
        let entries = entries.into_iter().map(|(path, kind)| Entry { path, kind });
        let mut entries: Vec<Entry> = entries.collect();
        // Paths compare by component; what counts is the order of their bytes.
        entries.sort_by(|one, other| one.path.as_str().cmp(other.path.as_str()));
        (entries, problems)
    }

    fn below(&self, folder: &'a Utf8Path) -> impl Iterator<Item = (&'a Utf8Path, &'a Seen)> {
        self.seen
            .range::<&Utf8Path, _>(folder..)
            .map(|(path, seen)| (*path, *seen))
            .skip_while(move |(path, _)| *path == folder)
            .take_while(move |(path, _)| path.starts_with(folder))
    }

    /// A link to a file is one entry; a link to a folder is one for each file in it.
    fn follow(
        &self,
        path: &Utf8Path,
        target: &Utf8Path,
        leads_to: &'a LeadsTo,
    ) -> Result<BTreeMap<Utf8PathBuf, EntryKind>, Problem> {
        let fix = "make it lead to a file of this package or of one that it depends on, or copy it";
        let problem = |what: String| Problem::new(path, what, fix);
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
        if let Some(seen) = self.seen.get(end.as_path()) {
            let kind = link(target, seen).ok_or_else(|| problem(format!("leads to {end}")))?;
            return Ok(BTreeMap::from([(path.to_owned(), kind)]));
        }
        let mut links = BTreeMap::new();
        for (file, seen) in self
            .below(end)
            .filter(|(_, seen)| !matches!(seen, Seen::Missing))
        {
            let within = file.strip_prefix(end).unwrap_or(file);
            let kind = link(&target.join(within), seen).ok_or_else(|| {
                problem(format!(
                    "is a link to the folder {end}, in which {file} is a link again"
                ))
            })?;
            links.insert(path.join(within), kind);
        }
        if links.is_empty() || path.starts_with(end) {
            let what = format!("is a link to {end}, which is not among the sources of the package");
            return Err(problem(what));
        }
        Ok(links)
    }
}

fn link(target: &Utf8Path, seen: &Seen) -> Option<EntryKind> {
    match seen {
        Seen::File {
            digest, executable, ..
        } => Some(EntryKind::Link {
            target: target.to_owned(),
            digest: *digest,
            executable: *executable,
        }),
        Seen::Link { .. } | Seen::Folder | Seen::Missing => None,
    }
}
