//! Jobs and their pods as the API server tells them, and Jobs that somebody else has made.

use std::fs;

use serde_json::{Value, json};

use crate::kubernetes::Namespace;

impl Namespace {
    /// The Job of this name, if there is one.
    ///
    /// # Errors
    /// When the server does not tell.
    pub fn job(&self, name: &str) -> Result<Option<Value>, String> {
        let get = ["get", "job", name, "--ignore-not-found", "--output=json"];
        let text = self.ask(&get)?;
        match text.trim() {
            "" => Ok(None),
            text => serde_json::from_str(text)
                .map(Some)
                .map_err(|error| format!("Job {name}: {error}")),
        }
    }

    /// The pods of the Job of this name, each as its name and phase.
    ///
    /// # Errors
    /// When the server does not tell.
    pub fn pods_of_job(&self, name: &str) -> Result<Vec<String>, String> {
        let of_it = format!("--selector=batch.kubernetes.io/job-name={name}");
        let text = self.ask(&["get", "pods", &of_it, "--output=json"])?;
        let told: Value =
            serde_json::from_str(&text).map_err(|error| format!("pods of {name}: {error}"))?;
        let pods = told["items"].as_array().into_iter().flatten();
        let named = pods.map(|pod| {
            let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
            let name = text("/metadata/name").unwrap_or_default();
            format!("{name}: {}", text("/status/phase").unwrap_or_default())
        });
        Ok(named.collect())
    }

    /// Makes a Job of this name that nobody of ours knows and that has no pod; gives its ID.
    ///
    /// # Errors
    /// When one is there, and what the server says.
    pub fn occupy(&self, name: &str) -> Result<String, String> {
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "nobody", "image": "nobody"}]});
        let job = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"suspend": true, "template": {"spec": pod}},
        });
        let file = self.directory().join(format!("job-{name}.json"));
        let error = |error| format!("{}: {error}", file.display());
        fs::write(&file, job.to_string()).map_err(error)?;
        let file = format!("--filename={}", file.display());
        let id = self.ask(&["create", &file, "--output=jsonpath={.metadata.uid}"])?;
        Ok(id.trim().to_owned())
    }

    /// Removes a Job, and waits until it has gone.
    ///
    /// # Errors
    /// When there is none, and what the server says.
    pub fn remove_job(&self, name: &str) -> Result<(), String> {
        self.ask(&["delete", "job", name, "--wait=true"]).map(drop)
    }
}
