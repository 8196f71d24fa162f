//! What is known about namespaces and workloads: their labels, and who owns whom. It comes from a
//! mounted file, and it refuses what it does not understand as a whole: half an inventory would
//! send remediations to the wrong owner.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{shutdown::Shutdown, watched_file::WatchedFile};

/// How many owners above each other are followed; Kubernetes has two or three.
const OWNERS_MAX: usize = 16;

/// Namespaces and workloads. Names may end in `*`, which makes them a prefix; an exact name wins
/// over a prefix, and a longer prefix over a shorter one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// In any order.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// In any order.
    #[serde(default)]
    pub workloads: Vec<Workload>,
}

/// A namespace and its labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// `shop`, or `shop-*`.
    pub name: String,
    /// As in the cluster.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// An object in a namespace, its labels and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `shop`, or `shop-*`.
    pub namespace: String,
    /// `Deployment`, `Pod`, ….
    pub kind: String,
    /// `web`, or `web-*`.
    pub name: String,
    /// As in the cluster.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The object that made it, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// The object above another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// `Deployment`, `ReplicaSet`, ….
    pub kind: String,
    /// Its name; no prefix.
    pub name: String,
}

impl Inventory {
    /// Reads the file's content.
    ///
    /// # Errors
    /// Anything that is not exactly this shape, with line and column.
    pub fn parse(content: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(content)
    }

    /// The namespace, if it is known.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces
            .iter()
            .filter_map(|namespace| Some((closeness(&namespace.name, name)?, namespace)))
            .max_by_key(|(closeness, _)| *closeness)
            .map(|(_, namespace)| namespace)
    }

    /// The workload, if it is known.
    #[must_use]
    pub fn workload(&self, namespace: &str, kind: &str, name: &str) -> Option<&Workload> {
        self.workloads
            .iter()
            .filter(|workload| workload.kind == kind)
            .filter_map(|workload| {
                let name = closeness(&workload.name, name)?;
                let namespace = closeness(&workload.namespace, namespace)?;
                Some(((name, namespace), workload))
            })
            .max_by_key(|(closeness, _)| *closeness)
            .map(|(_, workload)| workload)
    }

    /// The owners of a known workload, nearest first; `None` where the workload is unknown, empty
    /// where it is its own master. A circle ends where it closes.
    #[must_use]
    pub fn owners(&self, namespace: &str, kind: &str, name: &str) -> Option<Vec<Owner>> {
        let mut owners: Vec<Owner> = Vec::new();
        let mut next = self.workload(namespace, kind, name)?.owner.clone();
        while let Some(owner) = next {
            let known = (owner.kind == kind && owner.name == name) || owners.contains(&owner);
            if known || owners.len() == OWNERS_MAX {
                break;
            }
            next = self
                .workload(namespace, &owner.kind, &owner.name)
                .and_then(|workload| workload.owner.clone());
            owners.push(owner);
        }
        Some(owners)
    }
}

/// An inventory that follows its file. One that does not parse leaves the old one in force.
#[derive(Clone, Debug, Default)]
pub struct LiveInventory {
    current: Arc<RwLock<Arc<Inventory>>>,
    file: Option<Arc<Mutex<WatchedFile>>>,
}

impl LiveInventory {
    /// How often the file is looked at.
    const LOOK_INTERVAL: Duration = Duration::from_millis(500);

    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or is no inventory.
    pub fn from_file(path: &str) -> Result<Self, String> {
        let file = WatchedFile::open(PathBuf::from(path)).map_err(|error| error.to_string())?;
        let inventory = Inventory::parse(file.content()).map_err(|error| error.to_string())?;
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(inventory))),
            file: Some(Arc::new(Mutex::new(file))),
        })
    }

    /// The one in force. Who holds it works with it to the end, whatever the file does.
    #[must_use]
    pub fn current(&self) -> Arc<Inventory> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Follows the file until shutdown.
    pub async fn follow(self, shutdown: Shutdown) {
        let Some(file) = &self.file else {
            return shutdown.requested().await;
        };
        while shutdown.sleep(Self::LOOK_INTERVAL).await {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            match file.look() {
                Ok(None) => {}
                Ok(Some(content)) => self.take(content),
                Err(error) => tracing::warn!(%error, "the inventory stays as it is"),
            }
        }
    }

    fn take(&self, content: &[u8]) {
        match Inventory::parse(content) {
            Ok(inventory) => {
                let (namespaces, workloads) =
                    (inventory.namespaces.len(), inventory.workloads.len());
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(inventory);
                tracing::info!(namespaces, workloads, "inventory reloaded");
            }
            Err(error) => tracing::warn!(%error, "the inventory stays as it is"),
        }
    }
}

/// How well a pattern fits: exact before prefix, long prefix before short.
pub fn closeness(pattern: &str, name: &str) -> Option<(bool, usize)> {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix).then_some((false, prefix.len())),
        None => (pattern == name).then_some((true, name.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVENTORY: &str = r#"{
        "namespaces": [
            {"name": "shop-*", "labels": {"environment": "staging"}},
            {"name": "shop-live-*", "labels": {"environment": "production"}},
            {"name": "shop-live-7", "labels": {"environment": "development"}}
        ],
        "workloads": [
            {"namespace": "shop", "kind": "Pod", "name": "web-*", "owner": {"kind": "ReplicaSet", "name": "web-1"}},
            {"namespace": "shop", "kind": "Pod", "name": "web-admin-*", "owner": {"kind": "Deployment", "name": "web-admin"}},
            {"namespace": "shop", "kind": "ReplicaSet", "name": "web-1", "owner": {"kind": "Deployment", "name": "web"}},
            {"namespace": "shop", "kind": "Deployment", "name": "web", "labels": {"team": "a"}},
            {"namespace": "shop", "kind": "Job", "name": "a", "owner": {"kind": "Job", "name": "b"}},
            {"namespace": "shop", "kind": "Job", "name": "b", "owner": {"kind": "Job", "name": "a"}}
        ]
    }"#;

    #[track_caller]
    fn check_environment(namespace: &str, expected: Option<&str>) {
        let inventory = Inventory::parse(INVENTORY.as_bytes()).expect("inventory");
        let found = inventory
            .namespace(namespace)
            .map(|namespace| namespace.labels["environment"].as_str());
        assert_eq!(found, expected);
    }

    #[test]
    fn the_closest_namespace_wins() {
        check_environment("shop-1", Some("staging"));
        check_environment("shop-live-1", Some("production"));
        check_environment("shop-live-7", Some("development"));
        check_environment("shop", None);
    }

    #[track_caller]
    fn check_owners(kind: &str, name: &str, expected: Option<&[(&str, &str)]>) {
        let inventory = Inventory::parse(INVENTORY.as_bytes()).expect("inventory");
        let owners = inventory.owners("shop", kind, name).map(|owners| {
            owners
                .into_iter()
                .map(|owner| (owner.kind, owner.name))
                .collect::<Vec<_>>()
        });
        let expected = expected.map(|expected| {
            expected
                .iter()
                .map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned()))
                .collect::<Vec<_>>()
        });
        assert_eq!(owners, expected);
    }

    #[test]
    fn owners_are_followed_to_the_top() {
        check_owners(
            "Pod",
            "web-1-abcde",
            Some(&[("ReplicaSet", "web-1"), ("Deployment", "web")]),
        );
        check_owners("Pod", "web-admin-1", Some(&[("Deployment", "web-admin")]));
        check_owners("Deployment", "web", Some(&[]));
        check_owners("Pod", "db-0", None);
    }

    #[test]
    fn a_circle_of_owners_ends() {
        check_owners("Job", "a", Some(&[("Job", "b")]));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = Inventory::parse(br#"{"workload": []}"#).expect_err("a typing error");
        assert!(error.to_string().contains("workload"), "{error}");
    }
}
