//! Hears from the kernel that this host's addresses may have changed (rtnetlink(7), groups `RTMGRP_*_IFADDR`).

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use tokio::net::UdpSocket;

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of linux/rtnetlink.h.
const GROUPS: u32 = 0x10 | 0x100;

/// Changes that come together are one: containers that start or stop change addresses, too.
const TOGETHER: Duration = Duration::from_millis(20);

/// Bytes read at once; what the messages say is not looked at.
const BUFFER: usize = 16 * 1024;

/// Hears of changes.
///
/// A netlink socket is a datagram socket, and so tokio's type for those of UDP waits for it and reads it as well.
pub(crate) struct AddressMonitor(UdpSocket);

impl AddressMonitor {
    /// From now on. Within a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Waits until something may have changed. Cancel-safe: what is missed is found by the next look.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        heard(self.0.recv(&mut buffer).await)?;
        tokio::time::sleep(TOGETHER).await;
        loop {
            match self.0.try_recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                more => heard(more)?,
            }
        }
    }
}

/// More messages than the socket's buffer holds are as good as one.
fn heard(received: io::Result<usize>) -> io::Result<()> {
    match received {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::ENOBUFS as i32) => Err(error),
        _ => Ok(()),
    }
}
