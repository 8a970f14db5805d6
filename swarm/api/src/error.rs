//! What goes wrong, as clients want it: `{"message": "..."}` with dockerd's status codes.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use skep_control::request::{Refusal, RefusalKind};
use skep_node::NodeError;
use skep_state::Conflict;

/// What goes wrong: a status and one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

/// Result of a handler.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A command of Docker's that this node does not have.
    pub(crate) fn unimplemented(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported"))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            // dockerd maps both to 400 (`server/httpstatus/status.go`).
            RefusalKind::Invalid | RefusalKind::FailedPrecondition => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::OutOfSequence => StatusCode::INTERNAL_SERVER_ERROR,
            RefusalKind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        };
        Self::new(status, refusal.message)
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        let (status, prefix) = match &error {
            NodeError::Refused(refusal) => return refusal.clone().into(),
            NodeError::WrongUnlockKey => (StatusCode::UNAUTHORIZED, ""),
            NodeError::NotLocked => (StatusCode::CONFLICT, ""),
            NodeError::NotInSwarm
            | NodeError::Locked
            | NodeError::NotManager
            | NodeError::AlreadyInSwarm
            | NodeError::NotPartOfSwarm
            | NodeError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, ""),
            NodeError::Conflict(Conflict::OutOfSequence { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "rpc error: code = Unknown desc = ")
            }
            NodeError::Conflict(Conflict::NameInUse { .. }) => {
                (StatusCode::CONFLICT, "rpc error: code = AlreadyExists desc = ")
            }
            NodeError::Conflict(Conflict::PortInUse { .. }) => {
                (StatusCode::BAD_REQUEST, "rpc error: code = InvalidArgument desc = ")
            }
            NodeError::Conflict(Conflict::LastManager { .. }) => {
                (StatusCode::BAD_REQUEST, "rpc error: code = FailedPrecondition desc = ")
            }
            NodeError::Invalid(_) => (StatusCode::BAD_REQUEST, ""),
            NodeError::NotFound(_) => (StatusCode::NOT_FOUND, ""),
            NodeError::InUse(_) => (StatusCode::CONFLICT, ""),
            NodeError::NoLeader | NodeError::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, ""),
        };
        Self::new(status, format!("{prefix}{error}"))
    }
}

impl From<skep_image::Error> for ApiError {
    fn from(error: skep_image::Error) -> Self {
        let status = match error.kind() {
            skep_image::Kind::Invalid => StatusCode::BAD_REQUEST,
            skep_image::Kind::NotFound => StatusCode::NOT_FOUND,
            skep_image::Kind::Conflict => StatusCode::CONFLICT,
            skep_image::Kind::System => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::debug!(status = self.status.as_u16(), message = self.message, "a request failed");
        }
        // The CLI compares the content type with `==`, so there is no charset; and it wants one line.
        let message = self.message.replace(['\r', '\n'], " ");
        let body = serde_json::json!({ "message": message }).to_string();
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_follows_the_class() {
        let of = |error: NodeError| ApiError::from(error).status.as_u16();
        assert_eq!(of(NodeError::NotInSwarm), 503);
        assert_eq!(of(NodeError::NotManager), 503);
        assert_eq!(of(NodeError::NotFound(String::new())), 404);
        assert_eq!(of(NodeError::NoLeader), 500);
        let conflict = Conflict::NameInUse { kind: skep_state::Kind::Service, name: "web".to_owned() };
        let error = ApiError::from(NodeError::from(conflict));
        assert_eq!(error.status.as_u16(), 409);
        assert_eq!(
            error.message,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
        );
    }

    #[test]
    fn the_content_type_has_no_charset() {
        let response = ApiError::bad_request("two\nlines").into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    }
}
