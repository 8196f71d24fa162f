//! Files of a ConfigMap, changed while the service runs, as the kubelet does it: a new file takes
//! the place of the old in one step.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::run::Run;

/// One file of one service's ConfigMap.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    lock: PathBuf,
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
        let Some(directory) = run.service(service).config_maps.get(service) else {
            panic!("{service} has no ConfigMap of its name");
        };
        Self {
            path: directory.join(key),
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
        match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => panic!("{}: {error}", self.path.display()),
        }
    }

    #[track_caller]
    fn write(&self, content: &str) {
        let new = self.path.with_extension("new");
        let written = fs::write(&new, content)
            .and_then(|()| fs::set_permissions(&new, Permissions::from_mode(0o644)))
            .and_then(|()| fs::rename(&new, &self.path));
        if let Err(error) = written {
            panic!("{}: {error}", self.path.display());
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
        let file = ConfigFile {
            path: folder.path().join("inventory.json"),
            lock: folder.path().join("lock"),
        };
        fs::write(&file.path, r#"{"workloads":[]}"#).expect("written");
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
