//! Bearer tokens: who calls, and what the caller may do. The subject of the token is the actor of
//! whatever follows; no field of a body ever is. Tokens are compared in constant time.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::problem::Problem;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Read,
    /// Look and change.
    Write,
    /// Look and approve.
    Approve,
    /// Everything.
    Admin,
}

impl Role {
    /// Does a token with this role allow what `needed` allows?
    #[must_use]
    pub fn includes(self, needed: Self) -> bool {
        self == needed || self == Self::Admin || needed == Self::Read
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Approve => "approve",
            Self::Admin => "admin",
        })
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A service or a person.
    pub subject: Arc<str>,
    /// What the token allows.
    pub role: Role,
}

impl Caller {
    /// 403 unless the caller's role includes `needed`.
    ///
    /// # Errors
    /// The problem to answer with.
    pub fn require(&self, needed: Role) -> Result<(), Problem> {
        if self.role.includes(needed) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "`{}` has the role {}, this needs {needed}",
            self.subject, self.role
        )))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(missing_token)
    }
}

macro_rules! caller_with_role {
    ($(#[$doc:meta])* $name:ident, $role:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(
            /// Who calls.
            pub Caller,
        );

        impl<S: Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let caller = Caller::from_request_parts(parts, state).await?;
                caller.require($role)?;
                Ok(Self(caller))
            }
        }
    };
}

caller_with_role!(
    /// A caller who may look; the first argument of a handler, so that it judges before the body is read.
    Reader,
    Role::Read
);
caller_with_role!(
    /// A caller who may change things.
    Writer,
    Role::Write
);
caller_with_role!(
    /// A caller who may approve.
    Approver,
    Role::Approve
);
caller_with_role!(
    /// A caller who may do everything.
    Admin,
    Role::Admin
);

/// The accepted tokens. Only their digests are kept.
#[derive(Clone)]
pub struct Tokens(Arc<[Accepted]>);

struct Accepted {
    digest: [u8; 32],
    caller: Caller,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    tokens: Vec<TokenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    subject: String,
    role: Role,
    token: String,
}

/// Shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

impl Tokens {
    /// Reads the file of accepted tokens.
    ///
    /// # Errors
    /// When it cannot be read or is not what it should be.
    pub fn from_file(path: &str) -> Result<Self, String> {
        Self::from_json(&crate::config::read(Path::new(path))?)
    }

    /// Reads the accepted tokens from JSON.
    ///
    /// # Errors
    /// When it is not what it should be; the message tells no token.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let file: TokensFile = serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("not a file of tokens: line {line} column {column}")
        })?;
        let accept = |entry: TokenEntry| {
            if entry.subject.is_empty() {
                return Err("a token without a subject".to_owned());
            }
            if entry.token.len() < TOKEN_BYTES_MIN {
                let subject = entry.subject;
                return Err(format!(
                    "the token of `{subject}` is shorter than {TOKEN_BYTES_MIN} bytes"
                ));
            }
            Ok(Accepted {
                digest: Sha256::digest(entry.token.as_bytes()).into(),
                caller: Caller {
                    subject: entry.subject.into(),
                    role: entry.role,
                },
            })
        };
        let accepted: Vec<Accepted> = file
            .tokens
            .into_iter()
            .map(accept)
            .collect::<Result<_, _>>()?;
        Ok(Self(accepted.into()))
    }

    /// Whose token this is. Every accepted one is compared, so the time tells nothing.
    #[must_use]
    pub fn caller(&self, presented: &str) -> Option<&Caller> {
        let digest: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let mut found = Choice::from(0);
        let mut position = 0_u64;
        for (index, accepted) in (0_u64..).zip(self.0.iter()) {
            let equal = accepted.digest.ct_eq(&digest);
            position.conditional_assign(&index, equal);
            found |= equal;
        }
        if !bool::from(found) {
            return None;
        }
        let position = usize::try_from(position).ok()?;
        self.0.get(position).map(|accepted| &accepted.caller)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tokens({})", self.0.len())
    }
}

/// Middleware: puts the [`Caller`] in the request's extensions, or answers 401.
///
/// # Errors
/// 401 when the token is missing or unknown.
pub async fn authenticate(
    State(tokens): State<Tokens>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .ok_or_else(missing_token)?;
    let presented = header
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(missing_token)?;
    let caller = tokens
        .caller(presented)
        .cloned()
        .ok_or_else(|| Problem::unauthorized("the token is not known here"))?;
    tracing::Span::current().record("subject", caller.subject.as_ref());
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn missing_token() -> Problem {
    Problem::unauthorized("no token: send `Authorization: Bearer <token>`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let file = r#"{"tokens":[
            {"subject":"gateway","role":"write","token":"0123456789abcdef-gateway"},
            {"subject":"reader","role":"read","token":"0123456789abcdef-reader"}]}"#;
        Tokens::from_json(file).expect("tokens")
    }

    #[test]
    fn a_token_names_its_subject() {
        let tokens = tokens();
        let caller = tokens.caller("0123456789abcdef-reader").expect("known");
        assert_eq!((&*caller.subject, caller.role), ("reader", Role::Read));
        assert!(tokens.caller("0123456789abcdef-reade").is_none());
        assert!(tokens.caller("").is_none());
    }

    #[test]
    fn roles_include_each_other_as_documented() {
        use Role::{Admin, Approve, Read, Write};
        let includes =
            |role: Role| [Read, Write, Approve, Admin].map(|needed| role.includes(needed));
        assert_eq!(includes(Read), [true, false, false, false]);
        assert_eq!(includes(Write), [true, true, false, false]);
        assert_eq!(includes(Approve), [true, false, true, false]);
        assert_eq!(includes(Admin), [true; 4]);
    }

    #[test]
    fn bad_files_are_refused_without_telling_a_token() {
        for bad in [
            "",
            "{}",
            r#"{"tokens":[{"subject":"a","role":"write","token":"short"}]}"#,
            r#"{"tokens":[{"subject":"a","role":"owner","token":"0123456789abcdef"}]}"#,
            r#"{"tokens":[{"subject":"","role":"write","token":"0123456789abcdef"}]}"#,
        ] {
            let error = Tokens::from_json(bad).expect_err(bad);
            assert!(!error.contains("0123456789abcdef"), "{error}");
        }
    }
}
