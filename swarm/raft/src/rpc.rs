//! What goes over the transport.
//!
//! A message is `[length, 4 bytes little-endian][head, MessagePack][raw bytes]`; the raw bytes are a snapshot chunk, or
//! nothing.

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_state::Transaction;

use crate::options::RPC_BYTES_MAX;
use crate::types::{LogId, TypeConfig};
use crate::{MembershipError, ProposeError};

/// A request to another manager.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Raft: entries, or a heartbeat.
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft: a candidate asks for a vote.
    Vote(VoteRequest<u64>),
    /// Raft: one chunk of a snapshot. Its data are the raw bytes.
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// Would you vote for me? Changes nothing on either side.
    PreVote {
        /// The end of the asking node's log.
        last: Option<LogId>,
    },
    /// To the leader: propose this.
    Propose {
        /// What.
        transaction: Transaction,
        /// How long the asking node waits.
        timeout_ms: u64,
    },
    /// To the leader: up to where must I have applied, so that I have seen everything that is acknowledged by now?
    ReadIndex,
    /// To the leader.
    AddManager(String),
    /// To the leader.
    RemoveManager(String),
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
    PreVote {
        granted: bool,
    },
    /// [`ProposeError::NoLeader`] means: not accepted, ask another.
    Propose(Result<u64, ProposeError>),
    ReadIndex(Result<u64, ProposeError>),
    Membership(Result<(), MembershipError>),
    /// The request was not understood, or could not be served.
    Bad(String),
}

/// Encodes a message.
pub(crate) fn encode(head: &impl Serialize, raw: &[u8]) -> Result<Bytes, String> {
    let mut message = vec![0; 4];
    rmp_serde::encode::write_named(&mut message, head).map_err(|error| error.to_string())?;
    let length = u32::try_from(message.len() - 4).map_err(|error| error.to_string())?;
    message[..4].copy_from_slice(&length.to_le_bytes());
    message.extend_from_slice(raw);
    if message.len() > RPC_BYTES_MAX {
        return Err(format!("{} bytes are more than the {RPC_BYTES_MAX} of a message", message.len()));
    }
    Ok(message.into())
}

/// Decodes a message into its head and its raw bytes.
pub(crate) fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<(T, &[u8]), String> {
    if message.len() > RPC_BYTES_MAX {
        return Err(format!("{} bytes are more than the {RPC_BYTES_MAX} of a message", message.len()));
    }
    let (length, rest) = message.split_first_chunk::<4>().ok_or("a message without its length")?;
    let (head, raw) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a message that is cut short")?;
    Ok((rmp_serde::from_slice(head).map_err(|error| error.to_string())?, raw))
}
