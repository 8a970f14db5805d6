//! Prints how long two nodes take to find each other again: after a killed peer's restart (at once, and after it was
//! away for a while) and after a network cut. Times count from the moment the peer listens or the path passes packets
//! until a request is answered.
//!
//! `cargo run --release -p skep-mesh --example mesh-reconnect [runs]`

#[path = "../src/tests/relay.rs"]
mod relay;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use skep_mesh::ca::DEFAULT_VALIDITY;
use skep_mesh::{
    CertificateAuthority, Handler, Identity, Mesh, MeshConfig, NewKey, PeerConfig, PeerIdentity, RemoteError,
    Role,
};
use tokio::runtime::{Builder, Runtime};

use crate::relay::{Path, Relay};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Long enough for silence to be noticed and for the back-off to grow to its bound.
const AWAY: Duration = Duration::from_secs(5);

struct Echo;

#[async_trait::async_trait]
impl Handler for Echo {
    async fn request(&self, _peer: Arc<PeerIdentity>, _kind: u16, body: Bytes) -> Result<Bytes, RemoteError> {
        Ok(body)
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let runs = std::env::args().nth(1).and_then(|argument| argument.parse().ok()).unwrap_or(20);
    for (what, away) in [("restarted at once", Duration::ZERO), ("restarted after 5 s", AWAY)] {
        let mut took = Vec::new();
        for _ in 0..runs {
            took.push(restart(away).await?);
        }
        print(what, took);
    }
    let mut took = Vec::new();
    for _ in 0..runs {
        took.push(heal().await?);
    }
    print("healed after 5 s", took);
    Ok(())
}

fn print(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    if let (Some(least), Some(most)) = (took.first(), took.last()) {
        println!(
            "{what}: {} runs, min {least:.1?}, median {:.1?}, max {most:.1?}",
            took.len(),
            took[took.len() / 2]
        );
    }
}

/// The other node alone knows the address, as with a manager that has forgotten its workers.
async fn restart(away: Duration) -> Outcome<Duration> {
    let ca = CertificateAuthority::generate(SystemTime::now())?;
    let a = start(identity(&ca, "node-a")?, 0).await?;
    let identity = identity(&ca, "node-b")?;
    let (process, addr) = process(identity.clone(), 0).await?;
    know(&a, addr);
    ask(&a).await?;
    kill(process).await?;
    tokio::time::sleep(away).await;
    let (process, _) = self::process(identity, addr.port()).await?;
    let back = Instant::now();
    ask(&a).await?;
    let took = back.elapsed();
    a.close().await;
    kill(process).await?;
    Ok(took)
}

async fn heal() -> Outcome<Duration> {
    let ca = CertificateAuthority::generate(SystemTime::now())?;
    let a = start(identity(&ca, "node-a")?, 0).await?;
    let b = start(identity(&ca, "node-b")?, 0).await?;
    let relay = Relay::start(b.local_addr()?, Path { loss: 0.0, late: 0.0, mtu: 65536 }).await?;
    know(&a, relay.addr);
    ask(&a).await?;
    relay.cut();
    tokio::time::sleep(AWAY).await;
    relay.heal();
    let healed = Instant::now();
    ask(&a).await?;
    let took = healed.elapsed();
    a.close().await;
    b.close().await;
    Ok(took)
}

fn know(a: &Mesh, addr: SocketAddr) {
    a.set_peer("node-b", PeerConfig { addresses: vec![addr], keep: true });
}

/// A request that meets a connection which is about to be found dead is asked again, as callers do.
async fn ask(a: &Mesh) -> Outcome<()> {
    let mut last = None;
    for _ in 0..20 {
        match a.request("node-b", 1, Bytes::from_static(b"?"), Duration::from_secs(5)).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| "never asked".into(), Into::into))
}

fn identity(ca: &CertificateAuthority, id: &str) -> Outcome<Identity> {
    let key = NewKey::generate()?;
    let chain =
        ca.sign_csr(key.csr_pem(), id, "example", Role::Manager, SystemTime::now(), DEFAULT_VALIDITY)?;
    Ok(Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem())?)
}

async fn start(identity: Identity, port: u16) -> Outcome<Mesh> {
    let config = MeshConfig { listen: (Ipv4Addr::LOCALHOST, port).into(), ..MeshConfig::new(identity) };
    let mut tries = 0;
    loop {
        // A port that was just given up may take a moment.
        match Mesh::start(config.clone(), Arc::new(Echo)).await {
            Ok(mesh) => return Ok(mesh),
            Err(error) if tries > 400 => return Err(error.into()),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A node in a runtime of its own, which can be taken away without a goodbye.
async fn process(identity: Identity, port: u16) -> Outcome<((Runtime, Mesh), SocketAddr)> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mesh = runtime.spawn(start(identity, port)).await??;
    let addr = mesh.local_addr()?;
    Ok(((runtime, mesh), addr))
}

async fn kill((runtime, mesh): (Runtime, Mesh)) -> Outcome<()> {
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5))).await?;
    drop(mesh);
    Ok(())
}
