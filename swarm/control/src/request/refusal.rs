//! Why a request is refused.

/// Why a request is refused. The message is what dockerd prints, and goes to users as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The class, from which the HTTP status comes.
    pub kind: RefusalKind,
    /// One line.
    pub message: String,
}

/// The class of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The request makes no sense (400).
    Invalid,
    /// No such object (404).
    NotFound,
    /// The name is taken (409).
    Conflict,
    /// The swarm's state forbids it (dockerd answers 400 too).
    FailedPrecondition,
    /// Somebody else changed the object first (dockerd answers 500).
    OutOfSequence,
    /// Not supported (501).
    Unimplemented,
}

impl Refusal {
    /// A request that makes no sense, with gRPC's words in front, as dockerd hands swarmkit's errors on.
    pub(super) fn invalid(message: impl std::fmt::Display) -> Self {
        Self {
            kind: RefusalKind::Invalid,
            message: format!("rpc error: code = InvalidArgument desc = {message}"),
        }
    }

    /// A request that makes no sense, in dockerd's own words.
    pub(super) fn daemon(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Invalid, message: message.into() }
    }

    /// No such object. dockerd finds this out itself, so there is no gRPC prefix.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::NotFound, message: message.into() }
    }

    /// A reference that several objects match; dockerd's own words too.
    pub(super) fn ambiguous(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Invalid, message: message.into() }
    }

    /// A name that is taken.
    pub(super) fn exists(message: impl std::fmt::Display) -> Self {
        Self {
            kind: RefusalKind::Conflict,
            message: format!("rpc error: code = AlreadyExists desc = {message}"),
        }
    }

    /// The swarm's state forbids it.
    pub(super) fn precondition(message: impl std::fmt::Display) -> Self {
        Self {
            kind: RefusalKind::FailedPrecondition,
            message: format!("rpc error: code = FailedPrecondition desc = {message}"),
        }
    }

    /// Somebody else changed the object first.
    pub(super) fn out_of_sequence() -> Self {
        Self {
            kind: RefusalKind::OutOfSequence,
            message: "rpc error: code = Unknown desc = update out of sequence".to_owned(),
        }
    }

    /// Not supported.
    pub(super) fn unimplemented(message: impl std::fmt::Display) -> Self {
        Self {
            kind: RefusalKind::Unimplemented,
            message: format!("rpc error: code = Unimplemented desc = {message}"),
        }
    }
}
