//! Extractors whose refusals are problems: JSON bodies and query strings. A wrong or unknown field
//! is 400 and named, a body too large 413, another media type 415.

use std::collections::HashSet;
use std::fmt;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use crate::problem::Problem;

/// A JSON body in either direction.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(
    /// What was sent, or is to be.
    pub T,
);

/// A JSON body that must be I-JSON (RFC 7493): no member twice in an object, no NUL in a string,
/// no number that a double does not hold exactly or that loses digits. What is stored and hashed
/// comes in through this one.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T>(
    /// What was sent.
    pub T,
);

/// The parameters of the query string.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(
    /// What was sent.
    pub T,
);

/// The parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(
    /// What was sent.
    pub T,
);

/// `If-Match: <resource version>`, with or without quotes.
#[derive(Clone, Copy, Debug)]
pub struct IfMatch(
    /// The version that the caller knows.
    pub i64,
);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(parse(&body(request, state).await?)?))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = body(request, state).await?;
        check_i_json(&bytes).map_err(Problem::bad_request)?;
        Ok(Self(parse(&bytes)?))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(path)| Self(path))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(axum::http::header::IF_MATCH) else {
            return Err(Problem::precondition_required(
                "send `If-Match: <resource_version>`",
            ));
        };
        value
            .to_str()
            .ok()
            .and_then(|text| text.trim_matches('"').parse().ok())
            .map(Self)
            .ok_or_else(|| Problem::bad_request("`If-Match` is not a resource_version"))
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::unsupported_media_type(
            "send `Content-Type: application/json`",
        ));
    }
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("the body is too large"),
            _ => Problem::bad_request(rejection.body_text()),
        })
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    let media_type = media_type.to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Problem> {
    let parsed = axum::Json::<T>::from_bytes(bytes);
    parsed
        .map(|axum::Json(value)| value)
        .map_err(|rejection| Problem::bad_request(rejection.body_text()))
}

/// How deep an object may be; serde_json itself stops at 128.
const DEPTH_MAX: usize = 64;
/// Integers above lose digits in a double (RFC 7493).
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Refuses what is JSON and not I-JSON.
///
/// # Errors
/// A sentence that says what and where.
pub fn check_i_json(bytes: &[u8]) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut path = Vec::new();
    IJson { path: &mut path }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| match path.join(".") {
            at if at.is_empty() => format!("the body is not I-JSON: {error}"),
            at => format!("{at}: not I-JSON: {error}"),
        })
}

/// Walks through a body. The path is left as it is where something is wrong.
struct IJson<'a> {
    path: &'a mut Vec<String>,
}

impl IJson<'_> {
    fn enter<E: Error>(&mut self, name: String) -> Result<(), E> {
        if self.path.len() == DEPTH_MAX {
            return Err(E::custom(format!("deeper than {DEPTH_MAX}")));
        }
        self.path.push(name);
        Ok(())
    }
}

fn check_text<E: Error>(value: &str) -> Result<(), E> {
    if value.contains('\0') {
        return Err(E::custom("NUL in a string"));
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for IJson<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IJson<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_u64(value.unsigned_abs())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        if value > INTEGER_MAX {
            return Err(E::custom("an integer beyond ±(2^53 - 1); send it as text"));
        }
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        // An integer too long for 64 bits comes in as a double, its digits already lost.
        #[expect(clippy::cast_precision_loss, reason = "2^53 - 1 is exact")]
        let integer_max = INTEGER_MAX as f64;
        if !value.is_finite() || (value.fract() == 0.0 && value.abs() > integer_max) {
            return Err(E::custom(
                "a number that a double does not hold; send it as text",
            ));
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        check_text(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            self.enter(index.to_string())?;
            let deeper = IJson { path: self.path };
            let item = items.next_element_seed(deeper)?;
            self.path.pop();
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            check_text::<A::Error>(&name)?;
            self.enter(name.clone())?;
            if !names.insert(name) {
                return Err(A::Error::custom("the same member twice"));
            }
            members.next_value_seed(IJson { path: self.path })?;
            self.path.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i_json_is_accepted() {
        for good in [
            "null",
            r#"{"a":[1,-2.5,"x",{"b":true}],"c":9007199254740991}"#,
            r#"{"a":{"b":1},"c":{"b":1}}"#,
            "0.1",
        ] {
            assert_eq!(check_i_json(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[track_caller]
    fn refused(bad: &str, why: &str) {
        let error = check_i_json(bad.as_bytes()).expect_err(bad);
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn what_is_not_i_json_is_refused() {
        refused(r#"{"a":1,"a":1}"#, "a: not I-JSON: the same member twice");
        refused(r#"[{"x":{"b":1,"b":2}}]"#, "0.x.b: not I-JSON: the same");
        refused(r#"{"a":[1,{"b":"\u0000"}]}"#, "a.1.b: not I-JSON: NUL");
        refused(r#"{"\u0000":1}"#, "NUL");
        refused("9007199254740992", "2^53");
        refused("-9007199254740992", "2^53");
        refused("123456789012345678901234567890", "double");
        refused("1e400", "number");
        refused(&("[".repeat(65) + &"]".repeat(65)), "deeper");
        refused("{} x", "trailing");
        refused(r#""\ud800""#, "I-JSON");
    }
}
