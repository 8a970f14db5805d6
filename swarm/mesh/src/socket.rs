//! The one UDP socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

/// Kernel buffers of the socket, bytes: at 5 Gbit/s this is 6 ms, a scheduling hiccup. The kernel's usual 208 KiB are
/// lost in a third of a millisecond.
const SOCKET_BUFFER: usize = 4 << 20;

/// Binds the address; `[::]` takes IPv4 too.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<UdpSocket> {
    let family = if addr.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    // The forced variants go beyond net.core.{r,w}mem_max but need CAP_NET_ADMIN; the plain ones take what they get.
    if setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _ = setsockopt(&fd, sockopt::RcvBuf, &SOCKET_BUFFER);
    }
    if setsockopt(&fd, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        let _ = setsockopt(&fd, sockopt::SndBuf, &SOCKET_BUFFER);
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    Ok(UdpSocket::from(fd))
}

/// An address as people write it: IPv4 out of a dual-stack socket's mapped form.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
