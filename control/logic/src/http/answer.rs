//! What the HTTP API answers: `{"code":0,"message":""}` with or without data, or a code below zero and words.

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderValue, StatusCode,
        header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// goim's success without data, byte by byte.
const SUCCESS: Bytes = Bytes::from_static(br#"{"code":0,"message":""}"#);

/// Seconds after which a client should try again. One is enough for a full queue to empty or for the rate to allow a
/// push.
const TRY_AGAIN_S: HeaderValue = HeaderValue::from_static("1");

/// Why a request was not answered with a success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// A parameter is missing or wrong.
    #[error("{0}")]
    BadRequest(String),
    /// No token, or a wrong one.
    #[error("no or wrong bearer token")]
    Unauthorized,
    /// No such path.
    #[error("no such path")]
    NotFound,
    /// Another method.
    #[error("no such method on this path")]
    MethodNotAllowed,
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    Timeout,
    /// The body is longer than allowed.
    #[error("{0}")]
    TooLarge(String),
    /// More pushes than allowed.
    #[error("too many pushes, the maximum is {0} a second")]
    TooFast(u64),
    /// Something behind logic is away or full. Nothing was accepted.
    #[error("{0}")]
    Unavailable(String),
    /// Something behind logic did not say whether it did what was asked. The answer has no Retry-After, since a
    /// repetition may double the push.
    #[error("{0}")]
    Unknown(String),
}

impl ApiError {
    /// HTTP status and goim's code.
    const fn codes(&self) -> (StatusCode, i32) {
        match self {
            ApiError::BadRequest(_) => (StatusCode::BAD_REQUEST, -400),
            ApiError::Unauthorized => (StatusCode::UNAUTHORIZED, -401),
            ApiError::NotFound => (StatusCode::NOT_FOUND, -404),
            ApiError::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, -405),
            ApiError::Timeout => (StatusCode::REQUEST_TIMEOUT, -408),
            ApiError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, -413),
            ApiError::TooFast(_) => (StatusCode::TOO_MANY_REQUESTS, -429),
            ApiError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, -500),
            ApiError::Unknown(_) => (StatusCode::GATEWAY_TIMEOUT, -504),
        }
    }

    /// HTTP status.
    pub(super) const fn status(&self) -> StatusCode {
        self.codes().0
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Failure<'a> {
            code: i32,
            message: &'a str,
        }

        let (status, code) = self.codes();
        let mut response = json(&Failure { code, message: &self.to_string() });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        match self {
            ApiError::TooFast(_) | ApiError::Unavailable(_) => {
                headers.insert(RETRY_AFTER, TRY_AGAIN_S);
            }
            ApiError::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The server does not read the rest of the body, so no further request can follow on this connection.
            ApiError::TooLarge(_) | ApiError::Timeout => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            ApiError::BadRequest(_)
            | ApiError::NotFound
            | ApiError::MethodNotAllowed
            | ApiError::Unknown(_) => {}
        }
        response
    }
}

/// Success without data.
pub(super) fn success() -> Response {
    ([(CONTENT_TYPE, JSON)], Body::from(SUCCESS)).into_response()
}

/// Success with data.
pub(super) fn data(data: impl Serialize) -> Response {
    #[derive(Serialize)]
    struct Success<T> {
        code: i32,
        message: &'static str,
        data: T,
    }

    json(&Success { code: 0, message: "", data })
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(CONTENT_TYPE, JSON)], Body::from(body)).into_response(),
        // Only maps whose keys are no text cannot become JSON, and no answer has one.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
