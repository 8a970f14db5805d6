//! Prints what the mesh does over loopback on this machine: request latency, datagram throughput, idle cost.
//!
//! `cargo run --release -p skep-mesh --example mesh-bench [datagram bytes]`

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use skep_mesh::ca::DEFAULT_VALIDITY;
use skep_mesh::{
    CertificateAuthority, Handler, Identity, Mesh, MeshConfig, NewKey, PeerConfig, PeerIdentity, RemoteError,
    Role,
};

#[derive(Default)]
struct Counter {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
}

#[async_trait::async_trait]
impl Handler for Counter {
    async fn request(&self, _peer: Arc<PeerIdentity>, _kind: u16, body: Bytes) -> Result<Bytes, RemoteError> {
        Ok(body)
    }

    fn datagrams(&self, _peer: &PeerIdentity, batch: &mut Vec<Bytes>) {
        self.datagrams.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch.iter().map(|datagram| datagram.len() as u64).sum(), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let wanted = std::env::args().nth(1).and_then(|argument| argument.parse().ok()).unwrap_or(usize::MAX);
    let ca = CertificateAuthority::generate(SystemTime::now())?;
    let (a, _, _) = node(&ca, "node-a").await?;
    let (b, counter, to_b) = node(&ca, "node-b").await?;
    a.set_peer("node-b", PeerConfig { addresses: vec![to_b], keep: true });
    requests(&a).await?;
    datagrams(&a, &counter, wanted).await?;
    idle(&ca, &a).await?;
    a.close().await;
    b.close().await;
    Ok(())
}

async fn node(
    ca: &CertificateAuthority,
    id: &str,
) -> Result<(Mesh, Arc<Counter>, SocketAddr), Box<dyn Error>> {
    let key = NewKey::generate()?;
    let chain =
        ca.sign_csr(key.csr_pem(), id, "bench", Role::Manager, SystemTime::now(), DEFAULT_VALIDITY)?;
    let identity = Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem())?;
    let counter = Arc::new(Counter::default());
    let config = MeshConfig { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..MeshConfig::new(identity) };
    let mesh = Mesh::start(config, counter.clone()).await?;
    let addr = mesh.local_addr()?;
    Ok((mesh, counter, addr))
}

async fn requests(a: &Mesh) -> Result<(), Box<dyn Error>> {
    const ROUNDS: usize = 5000;
    let ask = || a.request("node-b", 1, Bytes::from_static(&[0; 100]), Duration::from_secs(5));
    ask().await?;
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        ask().await?;
        took.push(started.elapsed());
    }
    took.sort_unstable();
    println!("request: median {:?}, 99 % {:?}", took[ROUNDS / 2], took[ROUNDS * 99 / 100]);
    Ok(())
}

async fn datagrams(a: &Mesh, counter: &Counter, wanted: usize) -> Result<(), Box<dyn Error>> {
    const TIME: Duration = Duration::from_secs(3);
    let mut path = a.data_path("node-b").ok_or("no peer")?;
    path.send(Bytes::from_static(b"hello"))?;
    // Long enough for path MTU discovery.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let size = path.max_datagram().ok_or("no data connection")?.min(wanted);
    let datagram = Bytes::from(vec![0; size]);
    let (bytes, cpu) = (counter.bytes.load(Ordering::Relaxed), cpu_time()?);
    let before = counter.datagrams.load(Ordering::Relaxed);
    let started = Instant::now();
    let mut sent = 0u64;
    while started.elapsed() < TIME {
        for _ in 0..32 {
            path.send(datagram.clone())?;
            sent += 1;
        }
        tokio::task::yield_now().await;
    }
    let took = started.elapsed().as_secs_f64();
    let received = counter.bytes.load(Ordering::Relaxed) - bytes;
    let datagrams = counter.datagrams.load(Ordering::Relaxed) - before;
    println!(
        "datagrams of {size} bytes: {:.2} Gbit/s received, {:.0} % of {sent} sent, {:.1} to a batch, {:.2} CPUs",
        received as f64 * 8.0 / took / 1e9,
        datagrams as f64 * 100.0 / sent as f64,
        datagrams as f64 / counter.batches.load(Ordering::Relaxed) as f64,
        (cpu_time()? - cpu).as_secs_f64() / took,
    );
    Ok(())
}

/// A hundred nodes that do nothing: what a control connection costs, both ends counted.
async fn idle(ca: &CertificateAuthority, a: &Mesh) -> Result<(), Box<dyn Error>> {
    const PEERS: usize = 100;
    const TIME: Duration = Duration::from_secs(5);
    let hub = a.local_addr()?;
    let mut nodes = Vec::new();
    for number in 0..PEERS {
        nodes.push(node(ca, &format!("idle-{number}")).await?.0);
    }
    let before = resident()?;
    for node in &nodes {
        node.set_peer("node-a", PeerConfig { addresses: vec![hub], keep: true });
        node.request("node-a", 1, Bytes::new(), Duration::from_secs(10)).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let memory = resident()?.saturating_sub(before) / PEERS as u64 / 2;
    let cpu = cpu_time()?;
    tokio::time::sleep(TIME).await;
    let cpu = (cpu_time()? - cpu).as_secs_f64() / TIME.as_secs_f64() / PEERS as f64 / 2.0;
    println!("idle, each end of a control connection: {memory} KiB, {:.4} % of a CPU", cpu * 100.0);
    for node in nodes {
        node.close().await;
    }
    Ok(())
}

/// KiB.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS value")?.parse()?)
}

fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let (user, system) = (usage.user_time(), usage.system_time());
    let micros = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}
