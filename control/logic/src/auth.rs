//! Who a client is.

use contract::{ConnectRequest, LogicError};
use proto::{close::CloseReason, login::Login};

use crate::config::AuthMode;

/// Decides logins. Verified modes come beside `trust` as further variants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Auth {
    /// goim's own: the client says who it is, and is believed.
    Trust,
}

impl Auth {
    pub(super) fn new(mode: AuthMode) -> Self {
        match mode {
            AuthMode::Trust => Auth::Trust,
        }
    }

    /// What the client may be.
    ///
    /// # Errors
    /// [`LogicError::Refused`] with words for the client, which never repeat what it sent.
    pub(super) fn login(self, request: &ConnectRequest) -> Result<Login, LogicError> {
        match self {
            Auth::Trust => Login::parse(&request.token).map_err(|error| LogicError::Refused {
                reason: CloseReason::LoginRefused,
                text: error.to_string(),
            }),
        }
    }
}
