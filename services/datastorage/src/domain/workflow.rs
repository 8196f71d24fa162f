//! The catalog: what a workflow must be before it is stored for good.

use std::collections::{BTreeMap, BTreeSet};

use common::api::{Action, HttpCall, JobCall, NewWorkflow, Target};
use common::problem::{Answer, Problem};
use serde_json::Value;

use super::text;

/// What a workflow's labels may speak of.
const LABELS: &[&str] = &[
    "signal",
    "kind",
    "environment",
    "priority",
    "namespace",
    "severity",
    "signal_mode",
];
/// What every execution has from its target.
const TARGET_PARAMETERS: &[&str] = &["cluster", "namespace", "kind", "name"];
const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];
const STEPS_MAX: usize = 50;
const PARAMETERS_MAX: usize = 50;
const TIMEOUT_MS_MAX: u64 = 600_000;
const RETRIES_MAX: u32 = 10;
const TEXT_BYTES_MAX: usize = 4096;
const ARGUMENTS_MAX: usize = 50;
const JOB_SECONDS_MAX: u32 = 600;

/// Judges a new workflow.
pub(crate) fn parse(new: &NewWorkflow) -> Answer<()> {
    text::word("name", &new.name, "-", 63)?;
    text::word("version", &new.version, ".-+", 32)?;
    parse_labels(&new.labels)?;
    let declared = parse_parameters(&new.parameters)?;
    if new.steps.is_empty() || new.steps.len() > STEPS_MAX {
        return Err(refused("steps", &format!("1 to {STEPS_MAX} are needed")));
    }
    let mut names = BTreeSet::from(["probe"]);
    for (index, step) in new.steps.iter().enumerate() {
        let at = format!("steps[{index}]");
        text::word(&format!("{at}.name"), &step.name, "-_", 63)?;
        if !names.insert(&step.name) {
            let why = format!("`{}` is taken", step.name);
            return Err(refused(&format!("{at}.name"), &why));
        }
        match &step.action {
            Action::Http(http) => parse_call(&format!("{at}.http"), http, &declared)?,
            Action::Job(job) => parse_job(&format!("{at}.job"), job, &declared)?,
        }
    }
    match &new.probe {
        Some(probe) => parse_call("probe", probe, &declared),
        None => Ok(()),
    }
}

fn parse_labels(labels: &BTreeMap<String, String>) -> Answer<()> {
    for (key, value) in labels {
        if !LABELS.contains(&key.as_str()) {
            let why = format!("`{key}` is none of {}", LABELS.join(", "));
            return Err(refused("labels", &why));
        }
        text::name(&format!("labels.{key}"), value)?;
    }
    Ok(())
}

fn parse_parameters(parameters: &[String]) -> Answer<BTreeSet<&str>> {
    let mut declared: BTreeSet<&str> = TARGET_PARAMETERS.iter().copied().collect();
    if parameters.len() > PARAMETERS_MAX {
        return Err(refused(
            "parameters",
            &format!("more than {PARAMETERS_MAX}"),
        ));
    }
    for parameter in parameters {
        text::word("parameters", parameter, "_-", 63)?;
        // Those of the target may be declared too, for those who like to read it.
        declared.insert(parameter);
    }
    Ok(declared)
}

fn parse_call(at: &str, call: &HttpCall, declared: &BTreeSet<&str>) -> Answer<()> {
    if !METHODS.contains(&call.method.as_str()) {
        let why = format!("one of {} is needed", METHODS.join(", "));
        return Err(refused(&format!("{at}.method"), &why));
    }
    let rest = call.url.strip_prefix("http://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || call.url.len() > TEXT_BYTES_MAX {
        return Err(refused(&format!("{at}.url"), "an http:// URL is needed"));
    }
    if authority.contains(['{', '}', '@']) {
        let why = "host and port are fixed: no parameter, no credentials";
        return Err(refused(&format!("{at}.url"), why));
    }
    check_template(&format!("{at}.url"), &call.url, declared)?;
    if let Some(body) = &call.body {
        check_body(&format!("{at}.body"), body, declared)?;
    }
    if !(1..=TIMEOUT_MS_MAX).contains(&call.timeout_ms) {
        let why = format!("1 to {TIMEOUT_MS_MAX} are possible");
        return Err(refused(&format!("{at}.timeout_ms"), &why));
    }
    if call.retries_max > RETRIES_MAX {
        let why = format!("at most {RETRIES_MAX}");
        return Err(refused(&format!("{at}.retries_max"), &why));
    }
    check_statuses(&format!("{at}.expected_status"), &call.expected_status)?;
    if call.expected_status.is_empty() {
        return Err(refused(&format!("{at}.expected_status"), "is empty"));
    }
    check_statuses(&format!("{at}.retry_on_status"), &call.retry_on_status)
}

/// Which templates there are is known where it runs.
fn parse_job(at: &str, job: &JobCall, declared: &BTreeSet<&str>) -> Answer<()> {
    let template = format!("{at}.template");
    text::word(&template, &job.template, "-.", text::NAME_BYTES_MAX)?;
    let is_cut = |c: char| c == '-' || c == '.';
    if job.template.starts_with(is_cut) || job.template.ends_with(is_cut) {
        return Err(refused(
            &template,
            "begins and ends with a letter or a digit",
        ));
    }
    if job.args.len() > ARGUMENTS_MAX {
        let why = format!("more than {ARGUMENTS_MAX}");
        return Err(refused(&format!("{at}.args"), &why));
    }
    for (index, arg) in job.args.iter().enumerate() {
        let at = format!("{at}.args[{index}]");
        if arg.len() > TEXT_BYTES_MAX || arg.contains('\0') {
            return Err(refused(&at, "is too long, or no argument"));
        }
        check_template(&at, arg, declared)?;
    }
    if !(1..=JOB_SECONDS_MAX).contains(&job.deadline_seconds) {
        let why = format!("1 to {JOB_SECONDS_MAX} are possible");
        return Err(refused(&format!("{at}.deadline_seconds"), &why));
    }
    Ok(())
}

fn check_statuses(at: &str, statuses: &[u16]) -> Answer<()> {
    match statuses
        .iter()
        .find(|status| !(200..=599).contains(*status))
    {
        Some(status) => Err(refused(at, &format!("{status} is no status of an answer"))),
        None => Ok(()),
    }
}

fn check_body(at: &str, body: &Value, declared: &BTreeSet<&str>) -> Answer<()> {
    match body {
        Value::String(text) => check_template(at, text, declared),
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| check_body(at, item, declared)),
        Value::Object(members) => members
            .values()
            .try_for_each(|member| check_body(at, member, declared)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// Each `{parameter}` must be declared, each brace have its other.
fn check_template(at: &str, template: &str, declared: &BTreeSet<&str>) -> Answer<()> {
    let mut rest = template;
    while let Some(open) = rest.find(['{', '}']) {
        let after = rest[open..].strip_prefix('{');
        let Some((parameter, behind)) = after.and_then(|after| after.split_once('}')) else {
            return Err(refused(at, "a brace without its other"));
        };
        if !declared.contains(parameter) {
            return Err(refused(
                at,
                &format!("the parameter `{parameter}` is not declared"),
            ));
        }
        rest = behind;
    }
    Ok(())
}

/// All parameters of an execution: those of the target, and exactly the declared others.
pub(crate) fn parameters(
    workflow: &NewWorkflow,
    target: &Target,
    given: &BTreeMap<String, String>,
) -> Answer<BTreeMap<String, String>> {
    let of_target = [
        ("cluster", &target.cluster),
        ("namespace", &target.namespace),
        ("kind", &target.kind),
        ("name", &target.name),
    ];
    let mut all: BTreeMap<String, String> = of_target
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    for (name, value) in given {
        if all.contains_key(name) {
            return Err(refused(
                "parameters",
                &format!("`{name}` comes from the target"),
            ));
        }
        if !workflow.parameters.contains(name) {
            return Err(refused("parameters", &format!("`{name}` is not declared")));
        }
        if value.len() > TEXT_BYTES_MAX {
            return Err(refused("parameters", &format!("`{name}` is too long")));
        }
    }
    all.extend(given.clone());
    match workflow
        .parameters
        .iter()
        .find(|name| !all.contains_key(*name))
    {
        Some(missing) => Err(refused("parameters", &format!("`{missing}` is missing"))),
        None => Ok(all),
    }
}

fn refused(field: &str, why: &str) -> Problem {
    Problem::bad_request(format!("{field}: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workflow() -> Value {
        json!({
            "name": "restart", "version": "1.0.0", "labels": {"signal": "Down"},
            "steps": [{"name": "restart", "http": {
                "method": "POST", "url": "http://testbed:8080/restart?name={name}&why={why}",
                "body": {"a": ["{namespace}", 1]}}}],
            "parameters": ["why"],
            "probe": {"method": "GET", "url": "http://testbed:8080/healthz?name={name}"}
        })
    }

    #[test]
    fn a_good_one_is_taken() {
        parse(&serde_json::from_value(workflow()).expect("workflow")).expect("good");
    }

    #[track_caller]
    fn refused_at(pointer: &str, value: Value, says: &str) {
        let mut workflow = workflow();
        *workflow.pointer_mut(pointer).expect(pointer) = value;
        let workflow = serde_json::from_value(workflow).expect("workflow");
        let problem = parse(&workflow).expect_err(pointer);
        assert!(problem.detail().contains(says), "{problem}");
    }

    #[test]
    fn bad_fields_are_named() {
        refused_at("/name", json!("Restart"), "name");
        refused_at("/version", json!(""), "version");
        refused_at("/labels", json!({"colour": "red"}), "colour");
        refused_at("/steps", json!([]), "steps");
        refused_at("/steps/0/name", json!("probe"), "steps[0].name");
        refused_at(
            "/steps/0/http/method",
            json!("BREW"),
            "steps[0].http.method",
        );
        refused_at("/steps/0/http/url", json!("ftp://x"), "steps[0].http.url");
        refused_at("/steps/0/http/url", json!("http://{name}/x"), "fixed");
        refused_at("/steps/0/http/url", json!("http://u:p@h/x"), "fixed");
        refused_at("/steps/0/http/url", json!("http://h/{other}"), "`other`");
        refused_at("/steps/0/http/url", json!("http://h/{name"), "brace");
        refused_at("/steps/0/http/url", json!("http://h/name}"), "brace");
        refused_at("/steps/0/http/body", json!({"a": ["{other}"]}), "`other`");
        refused_at("/parameters", json!(["Why"]), "parameters");
        refused_at("/probe/url", json!("http://h/{why not}"), "why not");
    }

    #[test]
    fn bad_fields_of_a_job_are_named() {
        let job = |fields: Value| {
            let mut job = json!({"template": "restart", "args": ["restart", "--name={name}"]});
            let fields = fields.as_object().expect("object").clone();
            job.as_object_mut().expect("object").extend(fields);
            json!({"name": "restart", "job": job})
        };
        let mut good = workflow();
        good["steps"][0] = job(json!({}));
        parse(&serde_json::from_value(good).expect("workflow")).expect("good");
        let refused = |fields: Value, says: &str| refused_at("/steps/0", job(fields), says);
        refused(json!({"template": ""}), "steps[0].job.template");
        refused(json!({"template": "../pods"}), "steps[0].job.template");
        refused(json!({"template": "-a"}), "steps[0].job.template");
        refused(
            json!({"args": ["a", "{other}"]}),
            "steps[0].job.args[1]: the parameter `other`",
        );
        refused(json!({"args": ["a\0b"]}), "steps[0].job.args[0]");
        refused(json!({"args": vec!["a"; 51]}), "steps[0].job.args");
        refused(
            json!({"deadline_seconds": 0}),
            "steps[0].job.deadline_seconds",
        );
        refused(
            json!({"deadline_seconds": 601}),
            "steps[0].job.deadline_seconds",
        );
    }

    #[test]
    fn parameters_are_exactly_the_declared_ones() {
        let workflow: NewWorkflow = serde_json::from_value(workflow()).expect("workflow");
        let target = json!({"cluster": "c", "namespace": "n", "kind": "k", "name": "web"});
        let target = serde_json::from_value(target).expect("target");
        let given = |pairs: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            parameters(&workflow, &target, &pairs.iter().map(own).collect())
        };
        let all = given(&[("why", "x")]).expect("parameters");
        assert_eq!(
            all.keys().collect::<Vec<_>>(),
            ["cluster", "kind", "name", "namespace", "why"]
        );
        assert!(
            given(&[])
                .expect_err("missing")
                .detail()
                .contains("`why` is missing")
        );
        assert!(
            given(&[("why", "x"), ("y", "z")])
                .expect_err("undeclared")
                .detail()
                .contains("`y`")
        );
        assert!(
            given(&[("why", "x"), ("name", "z")])
                .expect_err("target")
                .detail()
                .contains("`name`")
        );
    }
}
