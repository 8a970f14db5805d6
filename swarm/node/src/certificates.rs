//! This node's own certificate: renews it in time, follows the swarm's CAs and its role, and gets a new one when the old
//! one is of no use any more.
//!
//! ```text
//!            50..80 % of its life, another CA or another role: ask a manager (CERT), or sign as one
//!  good ─────────────────────────────────────────────────────────────────────────────> good
//!   │ ended, or not begun by this node's clock, or no manager accepts it
//!   ▼
//!  stranded ── re-enrol with the old key at any known manager; its clock counts ─────> good
//!   │ refused: removed from the swarm; tried again, seldom
//!   │ nobody answers: a manager signs for itself; a worker tries again
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use skep_mesh::{Identity, Mesh, ReenrolOptions, Role, SwarmClock, reenrol};
use skep_seal::Vault;

use crate::agent::Agent;
use crate::manager::{Issued, ManagerSlot, issue};
use crate::member::{Folders, Record};
use crate::role::Certify;
use crate::rpc;

/// How often the node looks whether something is to be done: what it looks at costs nothing.
const LOOK: Duration = Duration::from_millis(500);
/// How long a manager may take to issue a certificate.
const ISSUE: Duration = Duration::from_secs(10);
/// How long all managers together may take to re-enrol this node.
const REENROL: Duration = Duration::from_secs(5);
/// Pauses after a failure: from this …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … doubling to this.
const RETRY_MOST: Duration = Duration::from_secs(60);
/// So long may no manager be connected before a certificate that seems good is held for refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks that differ by more than this are corrected for; certificates are back-dated by as much.
const CLOCK_TOLERANCE: u64 = 3600;

/// Keeps this node's certificate good.
pub(crate) struct Certificates {
    mesh: Mesh,
    clock: SwarmClock,
    agent: Arc<Agent>,
    manager: Arc<ManagerSlot>,
    folders: Folders,
    vault: Vault,
    /// Knows the managers from the disk, for when nothing else is known yet.
    record: Arc<Record>,
    /// One request at a time.
    asking: tokio::sync::Mutex<()>,
    lonely_since: Mutex<Option<tokio::time::Instant>>,
}

/// What the next certificate is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The one in use is good.
    Nothing,
    /// Another one while the one in use is good.
    Renewal,
    /// The one in use is refused, by the clock or by the managers.
    Rescue,
}

impl Certificates {
    /// For a running mesh.
    pub(crate) fn new(
        mesh: Mesh,
        clock: SwarmClock,
        agent: Arc<Agent>,
        manager: Arc<ManagerSlot>,
        folders: Folders,
        vault: Vault,
        record: Arc<Record>,
    ) -> Arc<Self> {
        let asking = tokio::sync::Mutex::new(());
        let lonely_since = Mutex::new(None);
        Arc::new(Self { mesh, clock, agent, manager, folders, vault, record, asking, lonely_since })
    }

    /// Keeps the certificate good until cancelled.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut pause = RETRY_FIRST;
        let mut random = rand::random();
        loop {
            let done = match self.need(random) {
                Need::Nothing => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Need::Renewal => self.obtain().await,
                Need::Rescue => self.rescue().await,
            };
            match done {
                Ok(role) => {
                    tracing::info!(?role, until = ?self.mesh.identity().peer().not_after, "this node has a new certificate");
                    (pause, random) = (RETRY_FIRST, rand::random());
                    *self.lonely_since.lock() = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot get a new certificate; trying again");
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause = (pause * 2).min(RETRY_MOST);
                }
            }
        }
    }

    /// What is to be done now; takes over CAs that the managers told of on the way.
    fn need(&self, random: f64) -> Need {
        let mut identity = self.mesh.identity();
        let (trust, issuer) = self.agent.view(|view| (view.trust.clone(), view.issuer.clone()));
        if !trust.is_empty() && trust != identity.trust_pem() {
            match identity.with_trust(&trust).map_err(|error| error.to_string()) {
                Ok(trusting) => {
                    if let Err(error) = self.put(&trusting) {
                        tracing::warn!(%error, "cannot take over the swarm's CAs");
                    }
                    identity = trusting;
                }
                // The certificate in use is of a CA that is trusted no more.
                Err(error) => {
                    tracing::info!(%error, "the swarm's CA has changed");
                    return Need::Rescue;
                }
            }
        }
        let now = self.clock.now();
        let peer = identity.peer();
        if now < peer.not_before || now >= peer.not_after || self.is_refused() {
            return Need::Rescue;
        }
        let other_issuer = !issuer.is_empty() && issuer != identity.issuer_digest();
        if other_issuer || now >= identity.renew_at(random) { Need::Renewal } else { Need::Nothing }
    }

    /// Whether managers answer but accept neither this node nor are accepted by it, for some time.
    fn is_refused(&self) -> bool {
        let peers = self.mesh.peers();
        let connected = peers.iter().any(|peer| peer.control);
        let refused = peers.iter().any(|peer| {
            peer.last_error
                .as_deref()
                .is_some_and(|error| error.contains("certificate") || error.contains("Expired"))
        });
        let mut lonely = self.lonely_since.lock();
        if connected || !refused {
            *lonely = None;
            return false;
        }
        lonely.get_or_insert_with(tokio::time::Instant::now).elapsed() >= PATIENCE
    }

    /// Asks the managers that are connected, one after the other.
    async fn ask(&self, csr_pem: &str) -> Result<Issued, String> {
        let mut last = "no manager is connected".to_owned();
        let request = rpc::encode(&rpc::CertificateRequest { csr_pem: csr_pem.to_owned() });
        for node_id in self.managers().into_iter().map(|(id, _)| id).filter(|id| self.mesh.is_connected(id)) {
            match self.mesh.request(&node_id, rpc::CERTIFICATE, request.clone(), ISSUE).await {
                Ok(answer) => return rpc::decode(&answer),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Re-enrols with the old key; a manager that finds no other one signs for itself.
    async fn rescue(&self) -> Result<Role, String> {
        let asking = self.asking.lock().await;
        let identity = self.mesh.identity();
        let remotes: Vec<SocketAddr> = self
            .managers()
            .iter()
            .filter(|(id, _)| id != identity.node_id())
            .flat_map(|(_, addresses)| addresses.iter().filter_map(|address| address.parse().ok()))
            .collect();
        let mut last = "no other manager is known".to_owned();
        if !remotes.is_empty() {
            let options =
                ReenrolOptions { remotes, identity: identity.clone(), bind: None, timeout: REENROL };
            match reenrol(options).await {
                Ok(reply) => {
                    self.set_clock(reply.now);
                    let issued = Issued { chain_pem: reply.chain_pem, trust_pem: reply.ca_pem, now: 0 };
                    return self.install(&identity, &issued);
                }
                Err(error) => last = error.to_string(),
            }
        }
        drop(asking);
        // Whoever holds the CA key needs nobody: after a long time switched off all managers are in the same state.
        if self.manager.get().is_some() { self.obtain().await } else { Err(last) }
    }

    /// The managers that this node knows, with their addresses.
    fn managers(&self) -> Vec<(String, Vec<String>)> {
        let known: Vec<(String, Vec<String>)> = self.agent.view(|view| {
            let managers = view.nodes.iter().filter(|(_, node)| node.manager);
            managers.map(|(id, node)| (id.clone(), node.addresses.clone())).collect()
        });
        if known.is_empty() { self.record.get().managers } else { known }
    }

    fn set_clock(&self, theirs: SystemTime) {
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (ours, theirs) = (seconds(self.clock.host_time()), seconds(theirs));
        if ours.abs_diff(theirs) > CLOCK_TOLERANCE {
            let offset = i64::try_from(theirs).unwrap_or(i64::MAX) - i64::try_from(ours).unwrap_or(i64::MAX);
            tracing::warn!(offset, "this host's clock is wrong; the managers' time is used for certificates");
            self.clock.set_offset(offset);
        } else {
            self.clock.set_offset(0);
        }
    }

    fn install(&self, old: &Identity, issued: &Issued) -> Result<Role, String> {
        let identity =
            old.renewed(&issued.chain_pem, &issued.trust_pem).map_err(|error| error.to_string())?;
        self.put(&identity)?;
        Ok(identity.role())
    }

    fn put(&self, identity: &Identity) -> Result<(), String> {
        identity.save(&self.folders.identity(), &self.vault).map_err(|error| error.to_string())?;
        self.mesh.update_identity(identity.clone()).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Certify for Certificates {
    async fn obtain(&self) -> Result<Role, String> {
        let _asking = self.asking.lock().await;
        let identity = self.mesh.identity();
        let csr_pem = identity.csr_pem().map_err(|error| error.to_string())?;
        let issued = match self.manager.raft() {
            Some(raft) => issue(&raft, &identity, identity.node_id(), &csr_pem, self.clock.now())
                .await
                .map_err(|error| error.to_string())?,
            None => self.ask(&csr_pem).await?,
        };
        self.install(&identity, &issued)
    }
}
