//! What becomes of a manifest in a run: its data is thrown away with it. A PersistentVolumeClaim is
//! left out, the volume that names it is an emptyDir in memory, and a container gets the arguments
//! that its Deployment keeps for runs. Pure, and the same for every cluster.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Annotations that begin with this are ours to understand.
const OURS: &str = "phase-zero.dev/";

/// On a Deployment: a list in JSON of what is added to the arguments of its container in a run, and
/// nowhere else. For what is right only where nobody needs the data afterwards.
pub(super) const ARGUMENTS: &str = "phase-zero.dev/run-args";

/// The kind of what asks for a volume that stays.
pub(super) const CLAIM: &str = "PersistentVolumeClaim";

/// What these annotations of a Deployment add to the arguments of its container.
///
/// # Errors
/// The annotation, and what is wrong with it.
pub(super) fn arguments(
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<String>, (&str, String)> {
    let mut ours = annotations.keys().filter(|key| key.starts_with(OURS));
    if let Some(unknown) = ours.find(|key| *key != ARGUMENTS) {
        let message = format!("means nothing; `{ARGUMENTS}` is known");
        return Err((unknown, message));
    }
    let text = annotations.get(ARGUMENTS).map_or("[]", String::as_str);
    serde_json::from_str(text).map_err(|error| {
        let message = format!("must be a list of words in JSON, [\"-c\", \"a=b\"]: {error}");
        (ARGUMENTS, message)
    })
}

/// A document as a run has it; nothing where it has none. `added` comes from [`arguments`].
pub(super) fn in_a_run(document: &Value, added: &[String]) -> Option<Value> {
    if document["kind"] == CLAIM {
        return None;
    }
    let mut document = document.clone();
    if document["kind"] == "Deployment" {
        let pod = &mut document["spec"]["template"]["spec"];
        let volumes = pod.get_mut("volumes").and_then(Value::as_array_mut);
        for volume in volumes.into_iter().flatten() {
            let volume = volume.as_object_mut();
            if let Some(volume) = volume
                && volume.remove("persistentVolumeClaim").is_some()
            {
                volume.insert("emptyDir".to_owned(), json!({"medium": "Memory"}));
            }
        }
        let container = &mut pod["containers"][0];
        if !added.is_empty() {
            let written = container["args"].as_array().cloned().unwrap_or_default();
            let added = added.iter().map(|word| json!(word));
            container["args"] = written.into_iter().chain(added).collect();
        }
    }
    Some(document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{arguments, in_a_run};

    fn deployment(pod: &Value) -> Value {
        json!({"kind": "Deployment", "spec": {"template": {"spec": pod}}})
    }

    #[track_caller]
    fn check(pod: &Value, added: &[&str], becomes: &Value) {
        let added: Vec<String> = added.iter().map(ToString::to_string).collect();
        let in_a_run = in_a_run(&deployment(pod), &added).unwrap();
        assert_eq!(in_a_run, deployment(becomes));
    }

    #[test]
    fn a_claim_is_left_out_and_its_volume_is_memory() {
        assert_eq!(
            in_a_run(&json!({"kind": "PersistentVolumeClaim"}), &[]),
            None
        );
        let service = json!({"kind": "Service", "spec": {"volumes": 1}});
        assert_eq!(in_a_run(&service, &["x".to_owned()]), Some(service));
        check(
            &json!({"containers": [{}], "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "db"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "db"}},
            ]}),
            &[],
            &json!({"containers": [{}], "volumes": [
                {"name": "data", "emptyDir": {"medium": "Memory"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "db"}},
            ]}),
        );
    }

    #[test]
    fn arguments_of_a_run_come_last() {
        check(
            &json!({"containers": [{"args": ["-D", "/data"]}]}),
            &["-c", "fsync=off"],
            &json!({"containers": [{"args": ["-D", "/data", "-c", "fsync=off"]}]}),
        );
        check(
            &json!({"initContainers": [{}], "containers": [{}]}),
            &["-v"],
            &json!({"initContainers": [{}], "containers": [{"args": ["-v"]}]}),
        );
    }

    #[test]
    fn an_annotation_of_ours_is_understood_or_refused() {
        let of = |key: &str, value: &str| {
            let annotations: BTreeMap<_, _> = [(key.to_owned(), value.to_owned())].into();
            arguments(&annotations).map_err(|(key, message)| format!("{key}: {message}"))
        };
        let words = |key: &str, value: &str| of(key, value).unwrap();
        assert_eq!(
            words("phase-zero.dev/run-args", r#"["-c", "x y"]"#),
            ["-c", "x y"]
        );
        assert!(words("somebody.else/run-args", "?").is_empty());
        let refused = |key: &str, value: &str| of(key, value).unwrap_err();
        let unknown = refused("phase-zero.dev/run-arguments", "[]");
        assert!(unknown.starts_with("phase-zero.dev/run-arguments: means nothing"));
        let no_list = refused("phase-zero.dev/run-args", "-c fsync=off");
        assert!(no_list.starts_with("phase-zero.dev/run-args: must be a list"));
        assert!(refused("phase-zero.dev/run-args", "[1]").contains("a list of words"));
    }
}
