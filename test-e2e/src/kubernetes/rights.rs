//! What a service may ask of the API server: its rights as the server itself tells them, and how they
//! are taken away for a while.

use std::collections::BTreeSet;

use serde_json::json;

use crate::kubernetes::Namespace;

/// What everybody may do who has a name.
const EVERYBODY: &str = "selfsubject";

/// The rights that a RoleBinding gave, until they are given back.
#[derive(Debug)]
pub struct Withdrawn {
    namespace: Namespace,
    binding: String,
    subjects: String,
}

impl Namespace {
    /// What the ServiceAccount may do in a namespace, each as `get pods`, by its own word for word, but
    /// for what everybody may do.
    ///
    /// # Errors
    /// When the server does not tell.
    pub fn rights(&self, account: &str, namespace: &str) -> Result<BTreeSet<String>, String> {
        let account = format!("--as=system:serviceaccount:{}:{account}", self.name());
        let place = format!("--namespace={namespace}");
        let table = self.ask(&["auth", "can-i", "--list", "--no-headers", &account, &place])?;
        Ok(rights_in(&table))
    }

    /// Takes the subjects out of a RoleBinding, until the end of what is given back.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn withdraw(&self, binding: &str) -> Result<Withdrawn, String> {
        let path = "--output=jsonpath={.subjects}";
        let subjects = self.ask(&["get", "rolebinding", binding, path])?;
        let withdrawn = Withdrawn {
            namespace: self.clone(),
            binding: binding.to_owned(),
            subjects,
        };
        withdrawn.set("[]")?;
        Ok(withdrawn)
    }
}

impl Withdrawn {
    fn set(&self, subjects: &str) -> Result<(), String> {
        let subjects: serde_json::Value = serde_json::from_str(subjects)
            .map_err(|error| format!("subjects of {}: {error}", self.binding))?;
        let patch = json!({"subjects": subjects}).to_string();
        let patch = [
            "patch",
            "rolebinding",
            &self.binding,
            "--type=merge",
            "--patch",
            &patch,
        ];
        self.namespace.ask(&patch).map(drop)
    }
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.subjects) {
            eprintln!(
                "RoleBinding {} stays without subjects: {error}",
                self.binding
            );
        }
    }
}

/// Lines of resources, URLs, names and verbs; the first two are never there together.
fn rights_in(table: &str) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for line in table.lines() {
        let resource = line.split_whitespace().next().unwrap_or_default();
        let verbs = line
            .rsplit_once('[')
            .map_or("", |(_, verbs)| verbs.trim_end());
        // A line about a URL has no resource.
        if resource.is_empty() || line.starts_with([' ', '[']) || resource.starts_with(EVERYBODY) {
            continue;
        }
        for verb in verbs.trim_end_matches(']').split_whitespace() {
            rights.insert(format!("{verb} {resource}"));
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_from_the_table() {
        let table = "selfsubjectreviews.authentication.k8s.io   []   []   [create]\n\
                     pods                                       []   []   [get list]\n\
                     \x20                                          [/api/*]   []   [get]\n\
                     deployments.apps                           []   [web]   [get]\n";
        let rights: Vec<String> = rights_in(table).into_iter().collect();
        assert_eq!(rights, ["get deployments.apps", "get pods", "list pods"]);
    }
}
