//! A UDP relay between two endpoints: a network path that can be cut, loses, reorders and has an MTU.
//!
//! Self-contained, because the example `mesh-reconnect` includes it too.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What the path does to packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// Share of packets that is lost, 0 to 1.
    pub(crate) loss: f64,
    /// Share of packets that is overtaken by later ones, 0 to 1.
    pub(crate) late: f64,
    /// Longest UDP payload that passes, bytes.
    pub(crate) mtu: usize,
}

/// Packets to `addr` go to the target, which sees them come from a port of the relay, one for each caller; packets to
/// that port go back to the caller.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    cut: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// How late a late packet is.
const LATE: Duration = Duration::from_millis(15);

impl Relay {
    pub(crate) async fn start(target: SocketAddr, path: Path) -> std::io::Result<Self> {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let addr = front.local_addr()?;
        let cut = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(forward_all(front, target, path, cut.clone()));
        Ok(Self { addr, cut, task })
    }

    /// Loses everything from now on.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Passes packets again.
    pub(crate) fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward_all(front: Arc<UdpSocket>, target: SocketAddr, path: Path, cut: Arc<AtomicBool>) {
    let mut backs: HashMap<SocketAddr, (Arc<UdpSocket>, AbortOnDrop)> = HashMap::new();
    let mut packet = vec![0; 65536];
    loop {
        // An error tells of an earlier packet that nobody took.
        let Ok((len, caller)) = front.recv_from(&mut packet).await else { continue };
        let back = match backs.get(&caller) {
            Some((back, _)) => back.clone(),
            None => {
                let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
                let back = Arc::new(back);
                let task = tokio::spawn(backward(back.clone(), front.clone(), caller, path, cut.clone()));
                backs.insert(caller, (back.clone(), AbortOnDrop(task)));
                back
            }
        };
        pass(&back, target, &packet[..len], path, &cut).await;
    }
}

async fn backward(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    caller: SocketAddr,
    path: Path,
    cut: Arc<AtomicBool>,
) {
    let mut packet = vec![0; 65536];
    loop {
        if let Ok(len) = back.recv(&mut packet).await {
            pass(&front, caller, &packet[..len], path, &cut).await;
        }
    }
}

async fn pass(from: &Arc<UdpSocket>, to: SocketAddr, packet: &[u8], path: Path, cut: &AtomicBool) {
    if cut.load(Ordering::SeqCst) || packet.len() > path.mtu || rand::random::<f64>() < path.loss {
        return;
    }
    if rand::random::<f64>() < path.late {
        let (from, packet) = (from.clone(), packet.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            let _ = from.send_to(&packet, to).await;
        });
    } else {
        // A path may lose packets.
        let _ = from.send_to(packet, to).await;
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
