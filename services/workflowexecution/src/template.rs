//! `{parameter}` in URLs, JSON bodies and arguments. A value can fill a place and nothing more: it is
//! percent-encoded in a URL, stays one string in a body and a part of one word in an argument, is never
//! read for parameters again, and cannot change host, path or structure, nor become an option. Anything
//! in braces that is no name is left as it is.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::Url;
use serde_json::Value;

/// All but what RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const SCHEME: &str = "http://";

/// The parameters that may be used, with their values where one was given.
pub(crate) type Parameters<'a> = BTreeMap<&'a str, Option<&'a str>>;

/// Why a template cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("the workflow does not declare the parameter {0}")]
    Undeclared(String),
    #[error("the parameter {0} has no value")]
    Missing(String),
    #[error("the value of the parameter {0} is no host name label, and it stands in the host")]
    UnsafeHost(String),
    #[error("the path of {0} has a segment that leads elsewhere")]
    UnsafePath(String),
    #[error("the argument {0} would be filled with what a program takes for something else")]
    UnsafeArgument(String),
    #[error("{0} does not begin with http://")]
    Scheme(String),
    #[error("{url} is no URL: {why}")]
    Malformed { url: String, why: String },
}

impl Error {
    /// For machines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Undeclared(_) => "undeclared_parameter",
            Self::Missing(_) => "missing_parameter",
            Self::UnsafeHost(_) | Self::UnsafePath(_) | Self::UnsafeArgument(_) => {
                "unsafe_parameter"
            }
            Self::Scheme(_) | Self::Malformed { .. } => "malformed_workflow",
        }
    }
}

/// Fills the template of a URL.
pub(crate) fn url(template: &str, parameters: &Parameters<'_>) -> Result<Url, Error> {
    let rest = template
        .strip_prefix(SCHEME)
        .ok_or_else(|| Error::Scheme(template.to_owned()))?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = fill(authority, parameters, |name, value| {
        if is_host_label(value) {
            Ok(value.to_owned())
        } else {
            Err(Error::UnsafeHost(name.to_owned()))
        }
    })?;
    let tail = fill(tail, parameters, |_, value| {
        Ok(utf8_percent_encode(value, ENCODED).to_string())
    })?;
    let filled = format!("{SCHEME}{authority}{tail}");
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    // A URL parser resolves these, also when they are written as %2e.
    if path.split('/').any(|segment| {
        matches!(
            &*percent_decode_str(segment).decode_utf8_lossy(),
            "." | ".."
        )
    }) {
        return Err(Error::UnsafePath(filled));
    }
    Url::parse(&filled).map_err(|error| Error::Malformed {
        url: filled,
        why: error.to_string(),
    })
}

/// Fills the strings of a body, and leaves its keys and its structure alone.
pub(crate) fn body(template: &Value, parameters: &Parameters<'_>) -> Result<Value, Error> {
    Ok(match template {
        Value::String(text) => {
            Value::String(fill(text, parameters, |_, value| Ok(value.to_owned()))?)
        }
        Value::Array(items) => items
            .iter()
            .map(|item| body(item, parameters))
            .collect::<Result<_, _>>()?,
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| Ok((key.clone(), body(value, parameters)?)))
            .collect::<Result<_, _>>()?,
        Value::Null | Value::Bool(_) | Value::Number(_) => template.clone(),
    })
}

/// Fills an argument. It stays one word, and an option where it was written as one.
pub(crate) fn argument(template: &str, parameters: &Parameters<'_>) -> Result<String, Error> {
    let filled = fill(template, parameters, |_, value| Ok(value.to_owned()))?;
    let is_option = |text: &str| text.starts_with('-');
    // Which option it is, is for whoever wrote it to say.
    let name = template.split_once('=').map_or(template, |(name, _)| name);
    if is_option(name) && name.contains('{') {
        return Err(Error::UnsafeArgument(template.to_owned()));
    }
    if filled.contains('\0') || is_option(&filled) != is_option(template) {
        return Err(Error::UnsafeArgument(template.to_owned()));
    }
    Ok(filled)
}

fn fill(
    template: &str,
    parameters: &Parameters<'_>,
    encode: impl Fn(&str, &str) -> Result<String, Error>,
) -> Result<String, Error> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(name) = leading_name(rest) else {
            filled.push('{');
            rest = &rest[1..];
            continue;
        };
        let value = parameters
            .get(name)
            .ok_or_else(|| Error::Undeclared(name.to_owned()))?
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Error::Missing(name.to_owned()))?;
        filled.push_str(&encode(name, value)?);
        rest = &rest[name.len() + 2..];
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The name in `{name}` at the beginning of `text`: a letter or underscore, then also digits and
/// hyphens.
fn leading_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.split_once('}')?.0;
    let mut characters = name.chars();
    let first = characters.next()?;
    let named = (first.is_ascii_alphabetic() || first == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    named.then_some(name)
}

/// One label: with a dot, a value could move the call to another domain.
fn is_host_label(value: &str) -> bool {
    value.len() <= 63
        && !value.starts_with('-')
        && !value.ends_with('-')
        && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PARAMETERS: [(&str, Option<&str>); 8] = [
        ("name", Some("web")),
        ("odd", Some("a/b?c=d&e#f g%é")),
        ("quote", Some("\"}, {\"admin\": true")),
        ("braces", Some("{name}")),
        ("up", Some("..")),
        ("dot", Some(".")),
        ("empty", Some("")),
        ("absent", None),
    ];

    #[track_caller]
    fn check(template: &str, expected: Result<&str, &str>) {
        let filled = url(template, &PARAMETERS.into());
        assert_eq!(
            filled.as_ref().map(Url::as_str).map_err(Error::reason),
            expected,
            "{template}: {filled:?}"
        );
    }

    #[track_caller]
    fn check_body(template: Value, expected: Result<Value, &str>) {
        let filled = body(&template, &PARAMETERS.into());
        assert_eq!(filled.map_err(|error| error.reason()), expected);
    }

    #[test]
    fn values_are_percent_encoded() {
        check("http://t:8080/{name}", Ok("http://t:8080/web"));
        check(
            "http://t/{odd}?x={odd}",
            Ok("http://t/a%2Fb%3Fc%3Dd%26e%23f%20g%25%C3%A9?x=a%2Fb%3Fc%3Dd%26e%23f%20g%25%C3%A9"),
        );
        check("http://t/?x={braces}", Ok("http://t/?x=%7Bname%7D"));
    }

    #[test]
    fn a_path_stays_where_it_was() {
        check("http://t/a/{up}/b", Err("unsafe_parameter"));
        check("http://t/a/{dot}{dot}", Err("unsafe_parameter"));
        check("http://t/a/%2e{dot}/b", Err("unsafe_parameter"));
        check("http://t/a/{up}.tar", Ok("http://t/a/...tar"));
        check("http://t/a?at={up}", Ok("http://t/a?at=.."));
    }

    #[test]
    fn a_host_takes_one_label() {
        check("http://{name}.shop:8080/", Ok("http://web.shop:8080/"));
        for parameter in ["{odd}", "{up}", "{quote}", "{braces}"] {
            check(&format!("http://{parameter}/"), Err("unsafe_parameter"));
            check(&format!("http://t{parameter}"), Err("unsafe_parameter"));
        }
    }

    #[test]
    fn what_cannot_be_filled_is_refused() {
        check("http://t/{secret}", Err("undeclared_parameter"));
        check("http://t/{absent}", Err("missing_parameter"));
        check("http://t/{empty}", Err("missing_parameter"));
        check("https://t/", Err("malformed_workflow"));
        check("{name}://t/", Err("malformed_workflow"));
        check("http://", Err("malformed_workflow"));
    }

    #[track_caller]
    fn check_argument(template: &str, value: &str, expected: Result<&str, &str>) {
        let filled = argument(template, &[("p", Some(value))].into());
        let filled = filled.as_deref().map_err(|error| error.reason());
        assert_eq!(filled, expected, "{template} with {value}");
    }

    #[test]
    fn an_argument_stays_one_word_and_becomes_no_option() {
        check_argument("--name={p}", "a b; c\n'\"", Ok("--name=a b; c\n'\""));
        check_argument("{p}", "$(reboot) {p}", Ok("$(reboot) {p}"));
        for template in ["--{p}", "-{p}=x", "-n{p}"] {
            check_argument(template, "force", Err("unsafe_parameter"));
        }
        check_argument("--name={p}", "--other", Ok("--name=--other"));
        check_argument("{p}", "--url=http://elsewhere", Err("unsafe_parameter"));
        check_argument("{p}{p}", "-", Err("unsafe_parameter"));
        check_argument("a{p}", "\0", Err("unsafe_parameter"));
        check_argument("{other}", "x", Err("undeclared_parameter"));
    }

    #[test]
    fn braces_around_no_name_stay() {
        check("http://t/?x={}", Ok("http://t/?x={}"));
        check_body(
            json!("{ \"a\": {name} } {1} {"),
            Ok(json!("{ \"a\": web } {1} {")),
        );
    }

    #[test]
    fn bodies_keep_their_structure() {
        check_body(
            json!({"{name}": ["{quote}", 1, null, {"x": "is {name}!"}]}),
            Ok(json!({"{name}": ["\"}, {\"admin\": true", 1, null, {"x": "is web!"}]})),
        );
        check_body(json!("{braces}"), Ok(json!("{name}")));
        check_body(json!(["{secret}"]), Err("undeclared_parameter"));
        check_body(json!(["{absent}"]), Err("missing_parameter"));
    }
}
