//! The TUN device through which a host's overlay packets reach the daemon, and come back.
//!
//! Every frame read or written starts with a virtio-net header of [`HEADER_BYTES`] bytes (struct `virtio_net_hdr` in
//! `linux/virtio_net.h`, fields in the machine's byte order), then an IPv4 or IPv6 packet. With it the kernel hands over
//! and takes segments of up to 64 KiB whose checksums are not computed yet: see `flags`, `gso_type`, `hdr_len`,
//! `gso_size`, `csum_start` and `csum_offset`.
//!
//! The device is persistent: it stays, with its routes, when the daemon dies, and the next daemon opens it again. While
//! nobody has it open, packets to it are dropped.

#![allow(unsafe_code)] // two ioctl families that no crate in use wraps

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use crate::namespace::{Namespace, NamespaceError};

/// Length of the virtio-net header in front of each frame, in bytes (without `num_buffers`).
pub const HEADER_BYTES: usize = 10;
/// Room that a read buffer must have for the largest frame.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + 65535;

const DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// Why the TUN device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The namespace could not be entered.
    #[error("cannot reach the namespace of the TUN device")]
    Namespace(#[from] NamespaceError),
    /// The name does not fit.
    #[error("{0:?} is not a possible name of a device")]
    Name(String),
    /// The kernel has no TUN devices, or the file is not there.
    #[error("cannot open /dev/net/tun (does the kernel have the tun module, and is the device file there?)")]
    Open(#[source] io::Error),
    /// Another process has the device open.
    #[error("the TUN device {0} is held by another process: is another daemon running?")]
    Busy(String),
    /// The device could not be made or opened.
    #[error("cannot create the TUN device {name}")]
    Create {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A property of the device was refused.
    #[error("cannot set {what} of the TUN device {name}")]
    Set {
        /// Its name.
        name: String,
        /// The property.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

/// An open TUN device; non-blocking.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    udp_segmentation: bool,
}

impl Tun {
    /// Creates the persistent device `name` in a namespace, or opens the one that is there.
    pub fn open_in(namespace: &Namespace, name: &str) -> Result<Self, TunError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '%', '\0']) {
            return Err(TunError::Name(name.to_owned()));
        }
        // The device appears in the namespace of the thread that opens the file.
        let file = namespace
            .run_here_or_inside(|| {
                OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)
            })?
            .map_err(TunError::Open)?;
        attach(&file, name).map_err(|source| match source {
            Errno::EBUSY => TunError::Busy(name.to_owned()),
            source => TunError::Create { name: name.to_owned(), source },
        })?;
        let set = |what, result: Result<(), Errno>| {
            result.map_err(|source| TunError::Set { name: name.to_owned(), what, source })
        };
        let base = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        let udp_segmentation = ioctl(&file, libc::TUNSETOFFLOAD, base | TUN_F_USO4 | TUN_F_USO6).is_ok();
        if !udp_segmentation {
            set("the offloads", ioctl(&file, libc::TUNSETOFFLOAD, base))?; // kernel before 6.2
        }
        set("the persistence", ioctl(&file, libc::TUNSETPERSIST, 1))?;
        Ok(Self { file, name: name.to_owned(), udp_segmentation })
    }

    /// The name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether UDP segments may cross too (`VIRTIO_NET_HDR_GSO_UDP_L4`, kernel 6.2 and later), not just TCP ones.
    #[must_use]
    pub const fn udp_segmentation(&self) -> bool {
        self.udp_segmentation
    }

    /// Reads one frame, header first. `WouldBlock` when there is none. A buffer shorter than the frame cuts it.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one frame, header first.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        (&self.file).write(frame)
    }

    /// The same device for use in a tokio runtime; must be called inside one.
    pub fn into_async(self) -> io::Result<AsyncTun> {
        // SAFETY: the descriptor must stay open and be the same one for as long as it is registered. `Tun` owns its
        // file, gives it away only by value, and lives inside the `AsyncFd` from here on.
        let tun = unsafe { AsyncFd::register(self)? };
        Ok(AsyncTun { tun })
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Tun> for OwnedFd {
    fn from(tun: Tun) -> Self {
        tun.file.into()
    }
}

/// A TUN device registered with tokio.
#[derive(Debug)]
pub struct AsyncTun {
    tun: AsyncFd<Tun>,
}

impl AsyncTun {
    /// Reads one frame, header first; safe to cancel.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.tun.readable().await?;
            if let Ok(result) = ready.try_io(|tun| tun.get_ref().read(buffer)) {
                return result;
            }
        }
    }

    /// Writes one frame, header first; safe to cancel.
    pub async fn send(&self, frame: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.tun.writable().await?;
            if let Ok(result) = ready.try_io(|tun| tun.get_ref().write(frame)) {
                return result;
            }
        }
    }

    /// Reads one frame if there is one now, without waiting: for draining a burst after [`AsyncTun::recv`].
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tun.get_ref().read(buffer)
    }

    /// The device itself.
    #[must_use]
    pub fn get_ref(&self) -> &Tun {
        self.tun.get_ref()
    }
}

fn attach(file: &File, name: &str) -> Result<(), Errno> {
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`; `request` is one, lives through the call, and its name
    // ends with a zero because the caller checked that it is shorter than IFNAMSIZ.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).map(drop)
}

/// An ioctl whose argument is a plain number.
fn ioctl(file: &File, request: libc::Ioctl, argument: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the two requests used here (TUNSETOFFLOAD, TUNSETPERSIST) take a number by value and touch no memory.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};

    use super::*;
    use crate::netlink::{Netlink, Route};

    #[test]
    fn names_that_cannot_be_are_refused() {
        let namespace = Namespace::create().unwrap();
        for name in ["", "a/b", "tun%d", "sixteen-letters-"] {
            assert!(matches!(Tun::open_in(&namespace, name), Err(TunError::Name(_))), "{name}");
        }
    }

    #[tokio::test]
    async fn frames_cross_in_both_directions_and_the_device_outlives_its_holder() {
        let namespace = Namespace::create().unwrap();
        drop(Tun::open_in(&namespace, "t0").unwrap());
        let tun = Tun::open_in(&namespace, "t0").unwrap();
        assert!(matches!(Tun::open_in(&namespace, "t0"), Err(TunError::Busy(_))));
        let mut netlink = Netlink::new_in(&namespace).unwrap();
        let link = netlink.link_index("t0").unwrap();
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        netlink.set_link_up(link, true).unwrap();
        netlink.add_address(link, here.into(), 32).unwrap();
        netlink.set_route(&Route::on_link(there.into(), 32, link)).unwrap();
        let socket = namespace.run(|| UdpSocket::bind((here, 7)).unwrap()).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        socket.send_to(b"hello", (there, 9)).unwrap();

        let tun = tun.into_async().unwrap();
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let length = loop {
            let length = tun.recv(&mut frame).await.unwrap();
            if frame[HEADER_BYTES] >> 4 == 4 {
                break length; // not one of IPv6's own
            }
        };
        assert_eq!(length, HEADER_BYTES + 20 + 8 + 5);
        // Sent back with the ends exchanged: IP's and UDP's sums stay the same. The header still says that the
        // UDP checksum is not computed, which the receiver accepts.
        let packet = &mut frame[HEADER_BYTES..length];
        let (source, destination) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
        let (source, destination) = packet[20..24].split_at_mut(2);
        source.swap_with_slice(destination);
        assert_eq!(tun.send(&frame[..length]).await.unwrap(), length);
        let mut answer = [0; 16];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..length], from.ip(), from.port()), (b"hello".as_slice(), IpAddr::V4(there), 9));
    }
}
