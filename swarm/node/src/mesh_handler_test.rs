//! Every message, over a real mesh: from a worker, from nodes that are not in the swarm, and with certificates that are
//! worth nothing (at the handshake, so once for each class of connections). That a caller without any certificate gets
//! no further than a join is tested with the mesh itself (`strangers`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use sha2::Digest as _;
use skep_image::Store;
use skep_mesh::{
    CertificateAuthority, Identity, JoinError, JoinOptions, JoinToken, Mesh, MeshConfig, NewKey, PeerConfig,
    ReenrolOptions, RequestError, Role, reenrol,
};
use skep_seal::Vault;
use skep_state::spec::NodeRole;
use skep_state::{Change, Cluster, JoinTokens, Node};
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::access::{TABLE, Told};
use crate::member::{Folders, Member};
use crate::view::NodeRoute;

const CLUSTER: &str = "swarm";
const SERVER: &str = "manager-1";
const PATIENCE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CONTENT: &[u8] = b"a layer";

/// A manager with three nodes in its list, and what reached its data plane.
struct Manager {
    ca: CertificateAuthority,
    mesh: Mesh,
    handler: Arc<MeshHandler>,
    slot: Arc<ManagerSlot>,
    packets: Arc<Packets>,
    digest: String,
    _lease: skep_image::Lease,
    _folder: TempDir,
}

#[derive(Default)]
struct Packets(AtomicUsize);

impl Datagrams for Packets {
    fn inbound(&self, node_id: &str, batch: &mut Vec<Bytes>) -> bool {
        let known = node_id == "worker-1";
        if known {
            self.0.fetch_add(batch.len(), Ordering::SeqCst);
        }
        known
    }

    fn reset_peer(&self, _node_id: &str) {}
}

/// Nobody has told anything.
struct Silence(watch::Sender<()>);

impl Told for Silence {
    fn nodes(&self) -> BTreeMap<String, NodeRoute> {
        BTreeMap::new()
    }

    fn node(&self, _node_id: &str) -> (bool, Option<bool>) {
        (false, None)
    }

    fn is_current(&self) -> bool {
        false
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// The asking side serves nothing.
struct Asker;

#[async_trait]
impl Handler for Asker {
    async fn request(&self, _: Arc<PeerIdentity>, _: u16, _: Bytes) -> Result<Bytes, RemoteError> {
        Err(RemoteError::new(RemoteError::UNSUPPORTED, "no"))
    }
}

fn identity(ca: &CertificateAuthority, id: &str, cluster: &str, role: Role, at: SystemTime) -> Identity {
    let key = NewKey::generate().unwrap();
    let chain = ca.sign_csr(key.csr_pem(), id, cluster, role, at, DAY).unwrap();
    Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap()
}

async fn mesh(identity: Identity, handler: Arc<dyn Handler>) -> Mesh {
    let listen = "127.0.0.1:0".parse().unwrap();
    Mesh::start(MeshConfig { listen, ..MeshConfig::new(identity) }, handler).await.unwrap()
}

impl Manager {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        let own = identity(&ca, SERVER, CLUSTER, Role::Manager, SystemTime::now());
        let handler = Arc::new(MeshHandler::default());
        let mesh = mesh(own, Arc::clone(&handler) as Arc<dyn Handler>).await;
        let slot = slot(&folder, &mesh);
        slot.start(Some(Transaction { at: clock::now(), changes: list(&ca) })).await.unwrap();
        let raft = slot.raft().unwrap();
        until("the manager leads", || raft.is_leader()).await;
        let store = Store::open(&folder.path().join("images")).unwrap();
        let mut lease = store.lease();
        let digest = format!("sha256:{}", hex(&sha2::Sha256::digest(CONTENT)));
        let mut writer = lease.ingest(&digest.parse().unwrap(), CONTENT.len() as u64).unwrap();
        writer.write_all(CONTENT).unwrap();
        writer.commit().unwrap();
        let packets = Arc::new(Packets::default());
        let told = Arc::new(Silence(watch::Sender::new(())));
        handler.set(Parts {
            directory: Arc::new(Directory::new(told, Arc::clone(&slot))),
            manager: Arc::clone(&slot),
            images: Images::new(store, mesh.clone()),
            data: Arc::clone(&packets) as Arc<dyn Datagrams>,
            clock: SwarmClock::new(),
            identity: {
                let mesh = mesh.clone();
                Box::new(move || mesh.identity())
            },
            record: record(&folder),
            backup: folder.path().join("backup"),
        });
        Self { ca, mesh, handler, slot, packets, digest, _lease: lease, _folder: folder }
    }

    /// A mesh of a node that knows where this manager is.
    async fn asker(&self, identity: Identity) -> Mesh {
        let asker = mesh(identity, Arc::new(Asker)).await;
        let addresses = vec![self.mesh.local_addr().unwrap()];
        asker.set_peer(SERVER, PeerConfig { addresses, keep: true });
        asker
    }

    async fn worker(&self) -> Mesh {
        let worker = identity(&self.ca, "worker-1", CLUSTER, Role::Worker, SystemTime::now());
        let asker = self.asker(worker).await;
        until("the worker is connected", || asker.is_connected(SERVER)).await;
        asker
    }

    async fn stop(self) {
        self.slot.stop().await;
        self.mesh.close().await;
        self.handler.clear();
    }
}

fn slot(folder: &TempDir, mesh: &Mesh) -> Arc<ManagerSlot> {
    let vault = Vault::create(&folder.path().join("vault"), None).unwrap();
    ManagerSlot::new(folder.path().join("raft"), mesh.clone(), vault)
}

fn record(folder: &TempDir) -> Arc<Record> {
    let member = Member {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:2377".parse().unwrap(),
        origin: crate::address::Origin::Chosen,
        interface: String::new(),
        role: NodeRole::Manager,
        managers: Vec::new(),
        subnets: Vec::new(),
        epoch: Vec::new(),
    };
    Record::new(&Folders::new(folder.path()), member, false)
}

fn list(ca: &CertificateAuthority) -> Vec<Change> {
    let token = || JoinToken::generate(ca.digest(), rand::random()).to_string();
    let mut cluster = Cluster {
        ca_cert: ca.certificate_pem().to_owned(),
        ca_key: ca.key_pem(),
        join_tokens: JoinTokens { worker: token(), manager: token() },
        ..Cluster::default()
    };
    CLUSTER.clone_into(&mut cluster.meta.id);
    let node = |(index, id, role): (u16, &str, NodeRole)| {
        let mut node = Node { index, role, ..Node::default() };
        (node.spec.role, node.status.state) = (role, NodeState::Ready);
        id.clone_into(&mut node.meta.id);
        Change::PutNode(Box::new(node))
    };
    let nodes = [
        (1, SERVER, NodeRole::Manager),
        (2, "worker-1", NodeRole::Worker),
        // A manager once, and its certificate says so still.
        (3, "demoted-1", NodeRole::Worker),
    ];
    std::iter::once(Change::PutCluster(Box::new(cluster))).chain(nodes.map(node)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

async fn ask(asker: &Mesh, kind: u16, body: Bytes) -> Result<Bytes, u16> {
    asker.request(SERVER, kind, body, PATIENCE).await.map_err(|error| match error {
        RequestError::Remote { error, .. } => error.code,
        other => panic!("request {kind}: {other}"),
    })
}

/// Asks for a certificate for the key of `identity`; the role that it has.
async fn issued_role(asker: &Mesh, identity: &Identity) -> Result<Role, u16> {
    let csr_pem = identity.csr_pem().unwrap();
    let answer = ask(asker, rpc::CERTIFICATE, rpc::encode(&CertificateRequest { csr_pem })).await?;
    let issued: Issued = rpc::decode(&answer).unwrap();
    Ok(identity.renewed(&issued.chain_pem, &issued.trust_pem).unwrap().role())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_from_a_worker() {
    let manager = Manager::start().await;
    let worker = manager.worker().await;
    for (message, name, _) in TABLE {
        match name {
            "raft" | "backup" => {
                let Message::Request(kind) = message else { panic!("{message:?}") };
                assert_eq!(ask(&worker, kind, Bytes::new()).await, Err(NOT_ALLOWED), "{name}");
            }
            "image" => {
                let query = rpc::encode(&ImageQuery { reference: "nothing".to_owned() });
                assert_eq!(ask(&worker, rpc::IMAGE, query).await, Ok(Bytes::from_static(b"null")));
            }
            "certificate" => {
                assert_eq!(issued_role(&worker, &worker.identity()).await, Ok(Role::Worker));
                let other = identity(&manager.ca, "worker-1", CLUSTER, Role::Worker, SystemTime::now());
                assert!(issued_role(&worker, &other).await.is_err(), "a node is its key");
            }
            "session" => {
                let hello = rpc::encode(&Hello::default());
                let (_send, mut receive) =
                    worker.open_stream(SERVER, Class::Control, rpc::SESSION, hello).await.unwrap();
                let first = rpc::receive::<FromLeader>(&mut receive).await.unwrap();
                let Some(FromLeader::Assignments(first)) = first else { panic!("{first:?}") };
                assert!(first.complete && first.nodes.is_some_and(|nodes| nodes.contains_key("worker-1")));
            }
            "blob" => {
                let header = Bytes::from(manager.digest.clone());
                let (_send, mut receive) =
                    worker.open_stream(SERVER, Class::Bulk, rpc::BLOB, header).await.unwrap();
                assert_eq!(receive.read_chunk(100, true).await.unwrap().unwrap().bytes, CONTENT);
            }
            "datagram" => {
                worker.send_datagram(SERVER, Bytes::from_static(b"packet")).unwrap();
                until("the packet arrives", || manager.packets.0.load(Ordering::SeqCst) == 1).await;
            }
            // Below, when nothing else is to follow.
            "leave" => {}
            other => panic!("{other}: say here what becomes of it"),
        }
    }
    assert_eq!(ask(&worker, 77, Bytes::new()).await, Err(RemoteError::UNSUPPORTED));
    assert_eq!(ask(&worker, rpc::LEAVE, Bytes::new()).await, Ok(Bytes::new()));
    let raft = manager.slot.raft().unwrap();
    let down = raft.read(|state| {
        let down = state.nodes.values().filter(|node| node.status.state == NodeState::Down);
        down.map(|node| node.meta.id.clone()).collect::<Vec<_>>()
    });
    assert_eq!(down, ["worker-1"], "a node leaves for itself only");
    drop(raft);
    worker.close().await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_part_comes_and_goes_while_connections_stay() {
    let manager = Manager::start().await;
    let worker = manager.worker().await;
    let hello = rpc::encode(&Hello::default());
    let (_send, mut session) = worker.open_stream(SERVER, Class::Control, rpc::SESSION, hello).await.unwrap();
    assert!(rpc::receive::<FromLeader>(&mut session).await.unwrap().is_some());

    manager.slot.forget().await.unwrap();
    assert!(manager.slot.has_files(), "not while it runs");
    manager.slot.stop().await;
    assert!(rpc::receive::<FromLeader>(&mut session).await.unwrap().is_none(), "its sessions end");
    assert_eq!(ask(&worker, rpc::LEAVE, Bytes::new()).await, Err(NOT_ALLOWED));
    let query = rpc::encode(&ImageQuery { reference: "nothing".to_owned() });
    assert_eq!(ask(&worker, rpc::IMAGE, query).await, Ok(Bytes::from_static(b"null")));

    manager.slot.start(None).await.unwrap();
    let raft = manager.slot.raft().unwrap();
    until("the manager leads again", || raft.is_leader()).await;
    assert_eq!(raft.read(|state| state.nodes.len()), 3);
    drop(raft);
    manager.slot.stop().await;
    manager.slot.forget().await.unwrap();
    assert!(!manager.slot.has_files() && worker.is_connected(SERVER));
    worker.close().await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_manager_speaks_raft_no_more_whatever_its_certificate_says() {
    let manager = Manager::start().await;
    let demoted = identity(&manager.ca, "demoted-1", CLUSTER, Role::Manager, SystemTime::now());
    let asker = manager.asker(demoted).await;
    until("it is connected", || asker.is_connected(SERVER)).await;
    assert_eq!(ask(&asker, rpc::RAFT, Bytes::new()).await, Err(NOT_ALLOWED));
    assert_eq!(issued_role(&asker, &asker.identity()).await, Ok(Role::Worker));
    asker.close().await;
    manager.stop().await;
}

/// A certificate that lets nobody in: no class of connections comes up, and no message arrives.
async fn stays_out(manager: &Manager, identity: Identity) {
    let asker = manager.asker(identity).await;
    until("the dial is refused", || asker.peers().iter().any(|peer| peer.last_error.is_some())).await;
    let short = Duration::from_millis(300);
    let tried = TABLE.map(|(message, name, _)| {
        let asker = asker.clone();
        async move {
            let refused = match message {
                Message::Request(kind) => asker.request(SERVER, kind, Bytes::new(), short).await.is_err(),
                Message::Stream(class, kind) => {
                    asker.open_stream(SERVER, class, kind, Bytes::new()).await.is_err()
                }
                Message::Datagram => {
                    // Held for a connection that never comes.
                    let _ = asker.send_datagram(SERVER, Bytes::from_static(b"packet"));
                    true
                }
            };
            assert!(refused, "{name}");
        }
    });
    for message in tried.map(tokio::spawn) {
        message.await.unwrap();
    }
    let seen = |peer: &skep_mesh::PeerStatus| peer.control || peer.bulk || peer.data;
    assert!(!asker.peers().iter().any(seen) && !manager.mesh.peers().iter().any(seen));
    assert_eq!(manager.packets.0.load(Ordering::SeqCst), 0);
    asker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_listed_stays_out() {
    let manager = Manager::start().await;
    let now = SystemTime::now();
    stays_out(&manager, identity(&manager.ca, "removed-1", CLUSTER, Role::Worker, now)).await;
    stays_out(&manager, identity(&manager.ca, "removed-2", CLUSTER, Role::Manager, now)).await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_stays_out() {
    let manager = Manager::start().await;
    let then = SystemTime::now() - DAY * 2;
    stays_out(&manager, identity(&manager.ca, "worker-1", CLUSTER, Role::Worker, then)).await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_swarm_stays_out() {
    let manager = Manager::start().await;
    let now = SystemTime::now();
    let other = CertificateAuthority::generate(now).unwrap();
    stays_out(&manager, identity(&other, "worker-1", CLUSTER, Role::Worker, now)).await;
    stays_out(&manager, identity(&manager.ca, "worker-1", "another", Role::Worker, now)).await;
    manager.stop().await;
}

/// Who may talk through whom, by the list of nodes of the one between.
#[tokio::test(flavor = "multi_thread")]
async fn managers_relay_between_listed_nodes_only() {
    let manager = Manager::start().await;
    let peer = |id: &str, role| identity(&manager.ca, id, CLUSTER, role, SystemTime::now()).peer().clone();
    let listed = peer("worker-1", Role::Worker);
    let may = |from: &PeerIdentity, to: &str| manager.handler.may_relay(from, to);
    assert!(may(&listed, "demoted-1") && may(&listed, SERVER));
    assert!(!may(&listed, "removed-1") && !may(&listed, ""), "to nobody that is not listed");
    assert!(!may(&peer("removed-1", Role::Worker), "worker-1"), "from nobody that is not listed");
    assert!(!may(&peer("removed-2", Role::Manager), "worker-1"), "whatever its certificate says");
    manager.slot.stop().await;
    assert!(!may(&listed, "demoted-1"), "who is no manager relays for nobody");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_with_a_wrong_token_leaves_nothing() {
    let manager = Manager::start().await;
    let raft = manager.slot.raft().unwrap();
    let before = raft.read(|state| state.nodes.clone());
    let key = NewKey::generate().unwrap();
    let request = JoinRequest {
        token: JoinToken::generate(manager.ca.digest(), rand::random()),
        csr_pem: key.csr_pem().to_owned(),
        extra: rpc::encode(&rpc::JoinExtra {
            hello: Hello::default(),
            availability: skep_state::spec::Availability::Active,
        }),
    };
    let remotes = vec![manager.mesh.local_addr().unwrap()];
    let refused = skep_mesh::join(JoinOptions { remotes, request, bind: None, timeout: PATIENCE }).await;
    assert!(matches!(refused, Err(JoinError::Refused { .. })), "{refused:?}");
    assert_eq!(raft.read(|state| state.nodes.clone()), before);
    drop(raft);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_said_again_is_the_same_node_until_it_has_come() {
    let manager = Manager::start().await;
    let raft = manager.slot.raft().unwrap();
    let token = raft.read(|state| state.cluster.clone().unwrap().join_tokens.worker);
    let key = NewKey::generate().unwrap();
    let join = || {
        let request = JoinRequest {
            token: token.parse().unwrap(),
            csr_pem: key.csr_pem().to_owned(),
            extra: rpc::encode(&rpc::JoinExtra {
                hello: Hello::default(),
                availability: skep_state::spec::Availability::Active,
            }),
        };
        let remotes = vec![manager.mesh.local_addr().unwrap()];
        skep_mesh::join(JoinOptions { remotes, request, bind: None, timeout: PATIENCE })
    };
    let of = |reply: JoinReply| Identity::from_pem(key.key_pem(), &reply.chain_pem, &reply.ca_pem).unwrap();
    // The first answer is lost.
    let (first, again) = (of(join().await.unwrap()), of(join().await.unwrap()));
    assert_eq!(first.node_id(), again.node_id());
    assert_eq!(raft.read(|state| state.nodes.len()), 4, "one more than there were");

    let node = manager.asker(again.clone()).await;
    until("it is connected", || node.is_connected(SERVER)).await;
    let hello = rpc::encode(&Hello::default());
    let _session = node.open_stream(SERVER, Class::Control, rpc::SESSION, hello).await.unwrap();
    until("it has come", || raft.read(|state| !state.nodes[first.node_id()].awaited)).await;
    assert!(matches!(join().await, Err(JoinError::Refused { .. })));
    assert_eq!(raft.read(|state| state.nodes.len()), 4);
    drop(raft);
    node.close().await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_nodes_of_this_swarm_re_enrol() {
    let manager = Manager::start().await;
    let (now, then) = (SystemTime::now(), SystemTime::now() - DAY * 30);
    let other = CertificateAuthority::generate(now).unwrap();
    let remotes = vec![manager.mesh.local_addr().unwrap()];
    let again = |identity: Identity| {
        reenrol(ReenrolOptions { remotes: remotes.clone(), identity, bind: None, timeout: PATIENCE })
    };
    let expired = identity(&manager.ca, "worker-1", CLUSTER, Role::Worker, then);
    let reply = again(expired.clone()).await.unwrap();
    assert_eq!(expired.renewed(&reply.chain_pem, &reply.ca_pem).unwrap().role(), Role::Worker);
    for refused in [
        identity(&manager.ca, "removed-1", CLUSTER, Role::Worker, then),
        // The key of the first one is known now.
        identity(&manager.ca, "worker-1", CLUSTER, Role::Worker, then),
        identity(&manager.ca, "worker-1", "another", Role::Worker, now),
        identity(&other, "worker-1", CLUSTER, Role::Worker, now),
    ] {
        let name = refused.node_id().to_owned();
        assert!(again(refused).await.is_err(), "{name}");
    }
    manager.stop().await;
}
