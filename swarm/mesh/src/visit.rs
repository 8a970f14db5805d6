//! Visits: one stream with one message each way, from somebody who is no member of the mesh (yet, or at the moment).
//!
//! ```text
//! visitor                                        manager
//!   | handshake: the manager proves itself <------ |  refused: too many at once
//!   | request -----------------------------------> |  BUSY: too many in this time
//!   | answer, or a refusal <---------------------- |
//! ```

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{
    ClientConfig, Connecting, Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime, VarInt,
};

use crate::frame::read_bytes;
use crate::handler::RemoteError;
use crate::inner::Inner;
use crate::join::{JoinError, busy};
use crate::wire::{self, StreamType};
use crate::{socket, tls};

/// Time for a whole visit, the handler's decision (a Raft write) included.
const VISIT: Duration = Duration::from_secs(20);
/// A visitor's own time for one address.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause before busy managers are asked again; varied by half.
const BUSY_PAUSE: Duration = Duration::from_millis(400);
/// QUIC's own word for "too many handshakes" (RFC 9000, 20.1).
const CONNECTION_REFUSED: u64 = 2;
/// A whole message, bytes: a signing request (16 KiB), certificates, and what the node adds (64 KiB).
const MAX_MESSAGE: usize = (16 + 64 + 128) << 10;

/// What a visitor wants of a manager.
pub(crate) trait Errand: Sync {
    type Answer;

    /// Asks one manager.
    fn run(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        left: Duration,
    ) -> impl Future<Output = Result<Self::Answer, JoinError>> + Send;

    /// Whether no other manager would say anything else.
    fn is_final(&self, error: &JoinError) -> bool;
}

/// Asks one manager after the other until one answers; those that are busy again while there is time. A refusal tells
/// more than silence.
pub(crate) async fn in_turn<E: Errand>(
    errand: &E,
    remotes: &[SocketAddr],
    bind: Option<SocketAddr>,
    timeout: Duration,
) -> Result<E::Answer, JoinError> {
    let first = *remotes.first().ok_or(JoinError::NoRemote)?;
    // With both families among the managers, a dual-stack socket reaches all.
    let any: SocketAddr = if remotes.iter().any(SocketAddr::is_ipv6) {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let socket = socket::listen(bind.unwrap_or(any)).map_err(JoinError::Socket)?;
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
        .map_err(JoinError::Socket)?;
    let started = Instant::now();
    let left = || timeout.saturating_sub(started.elapsed());
    let mut outcome = Err(JoinError::NoAnswer { address: first, waited: timeout });
    'rounds: loop {
        let mut is_busy = false;
        for &address in remotes {
            if left().is_zero() {
                break 'rounds;
            }
            let next = errand.run(&endpoint, address, left()).await;
            let refused = matches!(outcome, Err(JoinError::Refused { .. }));
            let (done, telling) = match &next {
                Ok(_) => (true, true),
                Err(JoinError::Refused { error, .. }) if error.code == RemoteError::BUSY => {
                    is_busy = true;
                    (false, true)
                }
                Err(error) => (errand.is_final(error), matches!(error, JoinError::Refused { .. })),
            };
            if done || telling || !refused {
                outcome = next;
            }
            if done {
                break 'rounds;
            }
        }
        let pause = BUSY_PAUSE.mul_f64(0.5 + rand::random::<f64>());
        if !is_busy || pause > left() {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    endpoint.close(VarInt::from_u32(0), b"done");
    // So that the manager sees the end at once; nothing is lost if it does not.
    let _ = tokio::time::timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
    outcome
}

/// The handshake.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    config: ClientConfig,
    left: Duration,
) -> Result<Connection, JoinError> {
    let failed = |reason: String| JoinError::Connection { address, reason };
    let connecting = endpoint
        .connect_with(config, address, tls::join_server_name())
        .map_err(|error| failed(error.to_string()))?;
    let patience = left.min(ATTEMPT);
    match tokio::time::timeout(patience, connecting).await {
        Err(_) => Err(JoinError::NoAnswer { address, waited: patience }),
        Ok(Err(error)) if is_refusal(&error) => Err(JoinError::Refused { address, error: busy() }),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(connection)) => Ok(connection),
    }
}

/// The request and its answer.
pub(crate) async fn exchange(
    connection: &Connection,
    address: SocketAddr,
    stream_type: StreamType,
    request: Bytes,
    left: Duration,
) -> Result<Bytes, JoinError> {
    let failed = |reason: String| JoinError::Connection { address, reason };
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|error| failed(error.to_string()))?;
        let mut parts = wire::opening(stream_type, 0, request);
        send.write_all_chunks(&mut parts).await.map_err(|error| failed(error.to_string()))?;
        // Fails only on a stream that is finished already.
        let _ = send.finish();
        let answer = wire::read_answer(&mut recv).await.map_err(|error| failed(error.to_string()))?;
        answer.map_err(|error| JoinError::Refused { address, error })
    };
    match tokio::time::timeout(left.min(VISIT), exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed("the manager did not answer in time".into())),
    }
}

fn is_refusal(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == CONNECTION_REFUSED)
}

/// The manager's side of one visit.
pub(crate) async fn serve<F: Future<Output = Result<Bytes, RemoteError>> + Send>(
    inner: &Arc<Inner>,
    connecting: Connecting,
    remote: SocketAddr,
    stream_type: StreamType,
    answer: impl FnOnce(Connection, Bytes) -> F + Send,
) {
    let visit = async {
        let connection = connecting.await.map_err(|error| error.to_string())?;
        let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| error.to_string())?;
        let admitted = inner.join_limit.lock().admit(remote.ip(), Instant::now());
        let result = if admitted {
            let opening = wire::read_opening(&mut recv).await.map_err(|error| error.to_string())?;
            if opening.stream_type != stream_type || opening.len > MAX_MESSAGE {
                return Err("not the request that the first packet promised".to_owned());
            }
            let body = read_bytes(&mut recv, opening.len).await.map_err(|error| error.to_string())?;
            answer(connection.clone(), body).await
        } else {
            Err(busy())
        };
        match &result {
            Ok(_) => inner.join_limit.lock().give_back(remote.ip()),
            Err(error) => tracing::info!(%remote, %error, ?stream_type, "refused"),
        }
        let mut parts = wire::answer(result);
        send.write_all_chunks(&mut parts).await.map_err(|error| error.to_string())?;
        let _ = send.finish();
        // The visitor closes when it has read the answer.
        connection.closed().await;
        Ok(())
    };
    match tokio::time::timeout(VISIT, visit).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%remote, error, "visit"),
        Err(_) => tracing::debug!(%remote, "a visit took too long"),
    }
}
