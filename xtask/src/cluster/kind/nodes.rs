//! Every node of a cluster: what counts as loaded is on each of them. Nodes go side by side, and one
//! import at a time in each, since a node unpacks what it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use camino::Utf8Path;

use super::node::{Around, Node, Survey};
use crate::engine::Engine;
use crate::run;
use crate::threads::{all, joined};

/// The nodes of one cluster; the first is the control plane. A clone is the same nodes.
#[derive(Clone, Debug)]
pub(super) struct Nodes(Arc<[One]>);

#[derive(Debug)]
struct One {
    engine: Engine,
    name: String,
    importing: Mutex<()>,
}

impl One {
    fn as_node(&self) -> Node<'_> {
        Node {
            engine: &self.engine,
            name: &self.name,
        }
    }
}

impl Nodes {
    /// So many of the cluster that the run with this ID owns, by the names that kind gives them.
    pub(super) fn of(engine: &Engine, owner: &str, count: u8) -> Self {
        let one = |name: String| One {
            engine: engine.clone(),
            name,
            importing: Mutex::new(()),
        };
        Self(names(owner, count).into_iter().map(one).collect())
    }

    /// The control plane, which publishes the ports of all.
    pub(super) fn first(&self) -> &str {
        &self.0[0].name
    }

    /// How many, nine at most.
    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|one| one.name.as_str()).collect()
    }

    /// As [`Node::exchange`], with each.
    ///
    /// # Errors
    /// With the words of a node's runtime, and as theirs.
    pub(super) fn exchange(&self, archive: &Utf8Path, references: &[&str]) -> Result<Around> {
        let around = self.ask_all(|one| {
            let importing = one.importing.lock();
            let _one_at_a_time = importing.unwrap_or_else(PoisonError::into_inner);
            one.as_node().exchange(archive, references)
        })?;
        let mut before: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut after = Vec::new();
        for one in around {
            for (name, digests) in one.before {
                before.entry(name).or_default().extend(digests);
            }
            after.push(one.after);
        }
        Ok(Around {
            before,
            after: on_all(after),
        })
    }

    /// Those of these images that every node lists, complete and with the same ID. One that some have
    /// and others have not is not there; one that is another image on another node has the ID that
    /// is not the first's, so that whoever compares it sees that it is wrong.
    ///
    /// # Errors
    /// As [`Node::images`].
    pub(super) fn images(&self, references: &[&str]) -> Result<BTreeMap<String, String>> {
        Ok(on_all(
            self.ask_all(|one| one.as_node().images(references))?,
        ))
    }

    /// As [`Nodes::images`], and every name that any of them lists.
    ///
    /// # Errors
    /// As [`Node::images`].
    pub(super) fn survey(&self, references: &[&str]) -> Result<Survey> {
        let surveys = self.ask_all(|one| one.as_node().survey(references))?;
        let (listings, names): (Vec<_>, Vec<_>) = surveys.into_iter().unzip();
        Ok((on_all(listings), names.into_iter().flatten().collect()))
    }

    /// As [`Nodes::images`], and one that is not complete is not there: it can be put in again.
    ///
    /// # Errors
    /// As [`Node::whole_images`].
    pub(super) fn whole_images(&self, references: &[&str]) -> Result<BTreeMap<String, String>> {
        Ok(on_all(
            self.ask_all(|one| one.as_node().whole_images(references))?,
        ))
    }

    fn ask_all<T: Send>(&self, ask: impl Fn(&One) -> Result<T> + Sync) -> Result<Vec<T>> {
        let ask = &ask;
        thread::scope(|scope| {
            let asking = self.0.iter();
            let asking: Vec<_> = asking.map(|one| scope.spawn(move || ask(one))).collect();
            asking.into_iter().map(joined).collect()
        })
    }

    /// The full names of all images that the first lists, complete or not.
    ///
    /// # Errors
    /// With the words of the node's runtime.
    pub(super) fn listed(&self) -> Result<Vec<String>> {
        self.0[0].as_node().listed()
    }

    /// Takes the images that have the names of these but other digests in their tags.
    ///
    /// # Errors
    /// With the words of a node's runtime.
    pub(super) fn forget_earlier(&self, references: &BTreeSet<&str>) -> Result<()> {
        self.each(|one| {
            let node = one.as_node();
            let listed = node.listed()?;
            let earlier = earlier(&listed, references);
            match earlier.is_empty() {
                true => Ok(()),
                false => node.remove(&earlier),
            }
        })
    }

    /// As [`Node::refuse_strays`], on each.
    ///
    /// # Errors
    /// When a node has no packet filter.
    pub(super) fn refuse_strays(&self) -> Result<()> {
        self.each(|one| one.as_node().refuse_strays())
    }

    fn each(&self, act: impl Fn(&One) -> Result<()> + Sync) -> Result<()> {
        let act = &act;
        thread::scope(|scope| {
            let acting = self.0.iter().map(|one| scope.spawn(move || act(one)));
            all(acting.collect())
        })
    }
}

/// The names that kind gives so many nodes of a cluster.
pub(super) fn names(owner: &str, count: u8) -> Vec<String> {
    let workers = (1..count).map(|number| match number {
        1 => format!("{owner}-worker"),
        number => format!("{owner}-worker{number}"),
    });
    [run::kind_node(owner)].into_iter().chain(workers).collect()
}

/// Of these images those that one of the references has taken the place of: its name, up to the
/// digest of its sources, is theirs.
fn earlier<'a>(listed: &'a [String], references: &BTreeSet<&str>) -> Vec<&'a str> {
    let stem = |name: &str| name.rsplit_once('-').map(|(stem, _)| stem.to_owned());
    let stems: BTreeSet<String> = references.iter().filter_map(|name| stem(name)).collect();
    let listed = listed.iter().map(String::as_str);
    let of_ours = listed.filter(|name| stem(name).is_some_and(|stem| stems.contains(&stem)));
    of_ours.filter(|name| !references.contains(name)).collect()
}

fn on_all(listings: Vec<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut listings = listings.into_iter();
    let mut found = listings.next().unwrap_or_default();
    for listing in listings {
        found.retain(|name, _| listing.contains_key(name));
        for (name, id) in &mut found {
            if listing[name] != *id {
                id.clone_from(&listing[name]);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{earlier, names, on_all};

    #[test]
    fn nodes_have_the_names_that_kind_gives_them() {
        assert_eq!(names("a", 1), ["a-control-plane"]);
        let four = ["a-control-plane", "a-worker", "a-worker2", "a-worker3"];
        assert_eq!(names("a", 4), four);
    }

    #[test]
    fn what_an_edit_has_replaced_goes() {
        let listed = [
            "localhost/datastorage:gateway-1",
            "localhost/datastorage:gateway-2",
            "localhost/datastorage:pipeline-1",
            "localhost/gateway:gateway-2",
            "docker.io/library/postgres:15-bookworm",
            "registry.k8s.io/pause:3.10",
        ]
        .map(str::to_owned);
        let now = BTreeSet::from([
            "localhost/datastorage:gateway-2",
            "localhost/gateway:gateway-2",
        ]);
        assert_eq!(earlier(&listed, &now), ["localhost/datastorage:gateway-1"]);
        assert!(earlier(&listed, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn an_image_is_there_where_every_node_has_it() {
        let listing = |images: &[(&str, &str)]| -> BTreeMap<String, String> {
            let images = images.iter();
            images
                .map(|(name, id)| ((*name).to_owned(), (*id).to_owned()))
                .collect()
        };
        let first = listing(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let second = listing(&[("a", "1"), ("b", "2"), ("d", "1")]);
        let found = on_all(vec![first.clone(), second]);
        assert_eq!(found, listing(&[("a", "1"), ("b", "2")]));
        assert_eq!(on_all(vec![first.clone()]), first);
    }
}
