//! openraft's network over the [`Transport`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use crate::rpc::{self, Answer, Request};
use crate::types::{Member, TypeConfig};
use crate::{Transport, TransportError};

/// Makes peers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn Transport>,
    /// How soon an unreachable peer is tried again.
    pub(crate) retry: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer { network: self.clone(), target, node_id: node.node_id.clone() }
    }
}

/// One peer.
pub(crate) struct Peer {
    network: Network,
    target: u64,
    node_id: String,
}

type Failure<E> = RPCError<u64, Member, RaftError<u64, E>>;

impl Peer {
    /// Every failure is `Unreachable` to openraft: that is the one after which it waits before it tries again.
    async fn call<E: std::error::Error>(
        &self,
        request: &Request,
        raw: &[u8],
        limit: Duration,
    ) -> Result<Answer, Failure<E>> {
        call(&*self.network.transport, &self.node_id, request, raw, limit)
            .await
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }
}

fn unexpected<E: std::error::Error>(answer: Answer) -> Failure<E> {
    let text = match answer {
        Answer::Bad(reason) => reason,
        other => format!("an answer of another kind: {other:?}"),
    };
    RPCError::Unreachable(Unreachable::new(&io::Error::other(text)))
}

/// One request, one answer.
pub(crate) async fn call(
    transport: &dyn Transport,
    node_id: &str,
    request: &Request,
    raw: &[u8],
    limit: Duration,
) -> Result<Answer, TransportError> {
    let unreachable = |reason| TransportError::Unreachable { node_id: node_id.to_owned(), reason };
    let lost = |reason| TransportError::Lost { node_id: node_id.to_owned(), reason };
    let message = rpc::encode(request, raw).map_err(unreachable)?;
    let answer = tokio::time::timeout(limit, transport.send(node_id, message))
        .await
        .map_err(|_| lost(format!("no answer within {} ms", limit.as_millis())))??;
    rpc::decode(&answer).map(|(answer, _)| answer).map_err(lost)
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<openraft::error::Infallible>> {
        match self.call(&Request::Append(request), &[], option.hard_ttl()).await? {
            Answer::Append(answer) => Ok(answer),
            other => Err(unexpected(other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        mut request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let data = std::mem::take(&mut request.data);
        match self.call(&Request::Snapshot(request), &data, option.hard_ttl()).await? {
            Answer::Snapshot(Ok(answer)) => Ok(answer),
            Answer::Snapshot(Err(error)) => Err(RPCError::RemoteError(RemoteError::new(self.target, error))),
            other => Err(unexpected(other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<openraft::error::Infallible>> {
        match self.call(&Request::Vote(request), &[], option.hard_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            other => Err(unexpected(other)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.retry))
    }
}
