//! Files of a ConfigMap, changed while the service runs: by the kubelet, or as it does it, where a
//! new file takes the place of the old in one step.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubernetes::Namespace;
use crate::run::Run;

/// One file of one service's ConfigMap.
#[derive(Debug)]
pub struct ConfigFile {
    place: Place,
    lock: PathBuf,
}

/// Where its content stands.
#[derive(Debug)]
enum Place {
    /// In a file of the host, which the container sees.
    Host(PathBuf),
    /// In the cluster.
    Kubernetes {
        namespace: Box<Namespace>,
        /// Of the service and of its ConfigMap.
        name: String,
        key: String,
    },
}

/// What a file held before; put back when this is dropped.
#[derive(Debug)]
#[must_use = "the old content returns when this is dropped"]
pub struct Replaced<'file> {
    file: &'file ConfigFile,
    before: String,
}

impl ConfigFile {
    /// The file `key` of the ConfigMap that is named as its service.
    ///
    /// # Panics
    /// When the run has none.
    #[must_use]
    #[track_caller]
    pub fn of(run: &Run, service: &str, key: &str) -> Self {
        let place = match run.cluster() {
            Cluster::Local(_) => match run.service(service).config_maps.get(service) {
                Some(directory) => Place::Host(directory.join(key)),
                None => panic!("{service} has no ConfigMap of its name"),
            },
            Cluster::Kubernetes(namespace) => Place::Kubernetes {
                namespace: Box::new(namespace),
                name: service.to_owned(),
                key: key.to_owned(),
            },
        };
        Self {
            place,
            lock: run
                .run_directory
                .join(format!("config-{service}-{key}.lock")),
        }
    }

    /// Changes the file. Tests may do so side by side: each sees what the others left.
    ///
    /// # Panics
    /// When it cannot be read or written.
    #[track_caller]
    pub fn update(&self, change: impl FnOnce(String) -> String) {
        let _lock = self.lock();
        let before = self.read();
        self.write(&change(before));
    }

    /// Adds entries to one of the lists of an inventory.
    ///
    /// # Panics
    /// When there is no such list.
    #[track_caller]
    pub fn add_to_inventory(&self, list: &str, entries: &[Value]) {
        self.update(|text| {
            let mut inventory: Value = serde_json::from_str(&text).expect("an inventory");
            let known = inventory[list].as_array_mut().expect("a list");
            known.extend_from_slice(entries);
            inventory.to_string()
        });
    }

    /// Puts another content in place for as long as the answer lives.
    ///
    /// # Panics
    /// When it cannot be read or written.
    #[track_caller]
    pub fn replace(&self, content: &str) -> Replaced<'_> {
        let _lock = self.lock();
        let before = self.read();
        self.write(content);
        Replaced { file: self, before }
    }

    /// What it holds.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn read(&self) -> String {
        let read = match &self.place {
            Place::Host(path) => {
                fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
            }
            Place::Kubernetes {
                namespace,
                name,
                key,
            } => namespace.config(name, key),
        };
        match read {
            Ok(text) => text,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    fn write(&self, content: &str) {
        let written = match &self.place {
            Place::Host(path) => {
                write_file(path, content).map_err(|error| format!("{}: {error}", path.display()))
            }
            Place::Kubernetes {
                namespace,
                name,
                key,
            } => namespace.set_config(name, key, content),
        };
        if let Err(error) = written {
            panic!("{error}");
        }
    }

    #[track_caller]
    fn lock(&self) -> File {
        let file = File::options().append(true).create(true).open(&self.lock);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        match locked {
            Ok(file) => file,
            Err(error) => panic!("{}: {error}", self.lock.display()),
        }
    }
}

fn write_file(path: &Path, content: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(&new, path)
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        let _lock = self.file.lock();
        self.file.write(&self.before);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_many_add_at_once_is_all_there() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("inventory.json");
        let file = ConfigFile {
            place: Place::Host(path.clone()),
            lock: folder.path().join("lock"),
        };
        fs::write(&path, r#"{"workloads":[]}"#).expect("written");
        crate::crowd::together(8, |index| {
            file.add_to_inventory("workloads", &[json!({"name": index})]);
        });
        let inventory: Value = serde_json::from_str(&file.read()).expect("JSON");
        assert_eq!(inventory["workloads"].as_array().map(Vec::len), Some(8));
        {
            let _replaced = file.replace("other");
            assert_eq!(file.read(), "other");
        }
        assert_eq!(file.read(), inventory.to_string());
    }
}
