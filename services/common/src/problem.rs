//! Errors as RFC 9457 `application/problem+json`. What went wrong inside is logged and not told.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde_json::{Map, Value};

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
    extensions: Map<String, Value>,
}

/// What a handler gives back.
pub type Answer<T> = Result<T, Problem>;

/// What is asked of a client that meets a 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $status:ident;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(detail: impl Into<String>) -> Self {
            Self::new(StatusCode::$status, detail)
        })*
    };
}

impl Problem {
    /// Any status with a sentence for people.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
            extensions: Map::new(),
        }
    }

    constructors! {
        /// 400: the request is not understood; the detail names the field.
        bad_request => BAD_REQUEST;
        /// 401: no token, or one that is not known.
        unauthorized => UNAUTHORIZED;
        /// 403: this caller may not.
        forbidden => FORBIDDEN;
        /// 404.
        not_found => NOT_FOUND;
        /// 405.
        method_not_allowed => METHOD_NOT_ALLOWED;
        /// 408: it took too long.
        timeout => REQUEST_TIMEOUT;
        /// 409: it contradicts what is stored.
        conflict => CONFLICT;
        /// 412: what the caller knows is stale.
        precondition_failed => PRECONDITION_FAILED;
        /// 413: the body is too large.
        too_large => PAYLOAD_TOO_LARGE;
        /// 415: the body is not JSON.
        unsupported_media_type => UNSUPPORTED_MEDIA_TYPE;
        /// 428: `If-Match` is missing.
        precondition_required => PRECONDITION_REQUIRED;
    }

    /// 503 with Retry-After: it may work in a moment.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.retry_after = Some(RETRY_AFTER);
        problem
    }

    /// 500; the cause goes to the log, not to the caller.
    #[must_use]
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "an error of the service; its log tells more",
        )
    }

    /// Adds a field beside the standard ones.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// The same with another sentence for people.
    #[must_use]
    pub fn with_detail(mut self, detail: &str) -> Self {
        detail.clone_into(&mut self.detail);
        self
    }

    /// Says when to come again.
    #[must_use]
    pub fn retry_after(mut self, duration: Duration) -> Self {
        self.retry_after = Some(duration);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.status, self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        tracing::debug!(
            status = self.status.as_u16(),
            detail = self.detail,
            "problem"
        );
        let mut response = ProblemDetails::from_status_code(self.status)
            .with_detail(self.detail)
            .with_extensions(self.extensions)
            .into_response();
        if let Some(duration) = self.retry_after {
            let seconds = duration.as_secs().max(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
