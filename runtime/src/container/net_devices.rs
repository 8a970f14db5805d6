//! `linux.netDevices`: devices of the creator's network namespace move into the container's, with their addresses.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};

use super::attribute::Attribute;
use super::{CreateError, pipe};

/// How long one answer may take. The kernel answers in microseconds; this only keeps a lost answer from hanging us.
const ANSWER_TIMEOUT_S: i64 = 10;

/// Room for one datagram of answers; the kernel's dumps use at most 32 KiB each.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Bytes of a name with its zero byte (`IFNAMSIZ`, linux/if.h).
const NAME_SIZE: usize = 16;

/// nlmsghdr of linux/netlink.h.
const HEADER_BYTES: usize = 16;

/// Devices to be moved.
pub(super) struct NetDevices {
    /// Name on the host, and name in the container.
    devices: Vec<(String, String)>,
    /// The namespace that the container joins, if it gets no new one.
    joined: Option<OwnedFd>,
    /// The container's process waits for a byte out of it.
    moved: OwnedFd,
}

/// Plans the move, and the container's wait for it.
pub(super) fn plan(
    linux: &Linux,
    own_network: bool,
    joined: Option<OwnedFd>,
) -> Result<Option<(NetDevices, Attribute)>, CreateError> {
    let mut devices: Vec<(String, String)> = Vec::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let inside = device.name().clone().filter(|name| !name.is_empty()).unwrap_or_else(|| name.clone());
        if let Some(bad) = [name, &inside].into_iter().find(|name| !valid(name)) {
            return Err(CreateError::Invalid(format!(
                "linux.netDevices: {bad:?} is no name of a network device"
            )));
        }
        devices.push((name.clone(), inside));
    }
    if devices.is_empty() {
        return Ok(None);
    }
    if !own_network {
        return Err(CreateError::Invalid(
            "linux.netDevices without a network namespace of the container's own".to_owned(),
        ));
    }
    devices.sort();
    let named = linux.namespaces().iter().flatten().find(|entry| entry.typ() == LinuxNamespaceType::Network);
    let joined = match (joined, named.and_then(super::build::joined_path)) {
        (None, Some(path)) => Some(open_namespace(path)?),
        (joined, _) => joined,
    };
    let (read, write) = pipe().map_err(CreateError::Pipe)?;
    let wait = Attribute::NetDevices { moved: read, writer: write.as_raw_fd() };
    Ok(Some((NetDevices { devices, joined, moved: write }, wait)))
}

/// `dev_valid_name` of the kernel, and no pattern for it to fill in.
fn valid(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() < NAME_SIZE
        && !name.contains(|letter: char| matches!(letter, '/' | ':' | '%' | '\0') || letter.is_whitespace())
}

/// A device as it is on the host.
struct Device {
    index: u32,
    up: bool,
    /// Permanent and valid everywhere: what the kernel forgets in the move.
    addresses: Vec<AddressMessage>,
}

impl NetDevices {
    /// Moves them and lets the container's process go on.
    pub(super) fn move_in(self, pid: i32) -> Result<MovedIn, CreateError> {
        let Self { devices, joined, moved: waited_for } = self;
        let namespace = match joined {
            Some(joined) => joined,
            None => open_namespace(format!("/proc/{pid}/ns/net").as_ref())?,
        };
        let mut all = MovedIn { namespace, devices: Vec::new() };
        for (name, inside) in devices {
            if let Err(error) = all.take(name, inside) {
                all.give_back();
                return Err(error);
            }
        }
        // A broken pipe means that the process is gone; that is found out soon.
        let _ = rustix::io::write(&waited_for, b"!");
        Ok(all)
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd, CreateError> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    fd.map_err(|errno| CreateError::OpenNamespace { path: path.into(), source: errno.into() })
}

/// Devices in the container, until it is known whether it comes about.
pub(super) struct MovedIn {
    /// Lives as long as this descriptor, with the devices in it.
    namespace: OwnedFd,
    /// Name on the host, name in the container, and the device as it was.
    devices: Vec<(String, String, Device)>,
}

impl MovedIn {
    fn take(&mut self, name: String, inside: String) -> Result<(), CreateError> {
        let error = |step| {
            let name = name.clone();
            move |source| CreateError::NetDevice { name, step, source }
        };
        let namespace = self.namespace.as_fd();
        let mut here = Netlink::open().map_err(error("open a netlink socket"))?;
        let device = here.find(&name).map_err(error("find it"))?;
        let mut there = Netlink::open_in(namespace).map_err(error("open a netlink socket in there"))?;
        // The kernel moves first and renames then: a name that is taken would leave the device in there.
        if there.link(&inside).is_ok() {
            return Err(error("name it")(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        here.set_up(device.index, false).map_err(error("take it down"))?;
        if let Err(source) = here.give(device.index, &inside, namespace) {
            if device.up {
                let _ = here.set_up(device.index, true);
            }
            return Err(error("move it")(source));
        }
        let arrived = there.arrive(&inside, device.addresses.clone(), true);
        let arrived = arrived.map_err(error("set it up in there"));
        self.devices.push((name, inside, device));
        arrived
    }

    /// The container did not come about: the kernel would end some devices with the namespace, and leave others under
    /// their new names.
    pub(super) fn give_back(&mut self) {
        while let Some((name, inside, device)) = self.devices.pop() {
            // What was to be created has failed, and that is what to tell; this is as good as it can be had.
            let _ = self.give_one_back(&name, &inside, device);
        }
    }

    fn give_one_back(&self, name: &str, inside: &str, device: Device) -> io::Result<()> {
        let mut there = Netlink::open_in(self.namespace.as_fd())?;
        let mut here = Netlink::open()?;
        let (index, _) = there.link(inside)?;
        there.set_up(index, false)?;
        // This thread's: it need not be in the namespace of the first one.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?;
        there.give(index, name, home.as_fd())?;
        here.arrive(name, device.addresses, device.up)
    }
}

/// A netlink socket of one network namespace.
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_S, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// A socket stays in the namespace that it was made in, so a thread goes there to make it.
    fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Self::open()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread for it ended")))
        })
    }

    fn find(&mut self, name: &str) -> io::Result<Device> {
        let (index, up) = self.link(name)?;
        let all = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let addresses = all.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == index && kept(&address) => {
                Some(address)
            }
            _ => None,
        });
        Ok(Device { index, up, addresses: addresses.collect() })
    }

    fn link(&mut self, name: &str) -> io::Result<(u32, bool)> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK)?;
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => {
                Some((link.header.index, link.header.flags.contains(LinkFlags::Up)))
            }
            _ => None,
        });
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Name and namespace change in one request.
    fn give(&mut self, index: u32, name: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    fn arrive(&mut self, name: &str, addresses: Vec<AddressMessage>, up: bool) -> io::Result<()> {
        let (index, _) = self.link(name)?;
        for mut address in addresses {
            address.header.index = index;
            // Its label was the old name, and its lifetimes are the kernel's to say.
            address.attributes.retain(|attribute| {
                matches!(
                    attribute,
                    AddressAttribute::Address(_)
                        | AddressAttribute::Local(_)
                        | AddressAttribute::Broadcast(_)
                )
            });
            let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
            self.ask(RouteNetlinkMessage::NewAddress(address), flags)?;
        }
        self.set_up(index, up)
    }

    /// Sends one request and collects the answers up to the acknowledgement or the end of the list.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        rustix::io::retry_on_intr(|| self.socket.send(&bytes, 0).map_err(|error| raw(&error)))?;
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            rustix::io::retry_on_intr(|| self.socket.recv(&mut buffer, 0).map_err(|error| raw(&error)))?;
            let mut rest = buffer.as_slice();
            while rest.len() >= HEADER_BYTES {
                let length = NetlinkBuffer::new_checked(&rest).map_err(io::Error::other)?.length() as usize;
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                rest = rest.get(length.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

fn raw(error: &io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}

/// Not what a router, a lease or the link itself gave: those hold in the old place only.
fn kept(address: &AddressMessage) -> bool {
    let long = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(flags.contains(AddressFlags::Permanent)),
        _ => None,
    });
    let short = (u32::from(address.header.flags.bits()) & AddressFlags::Permanent.bits()) != 0;
    long.unwrap_or(short) && address.header.scope == AddressScope::Universe
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::net::Ipv4Addr;

    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::link::{InfoKind, LinkInfo};
    use serde_json::json;

    use super::*;
    use crate::container::{CreateOptions, Gate, Rootfs, Stdio, create};

    fn linux(devices: serde_json::Value) -> Linux {
        serde_json::from_value(json!({"netDevices": devices, "namespaces": [{"type": "network"}]})).unwrap()
    }

    #[test]
    fn devices_have_names_and_somewhere_to_go() {
        let (devices, _) =
            plan(&linux(json!({"eth1": {"name": "net0"}, "eth0": {}})), true, None).unwrap().unwrap();
        let name = |outside: &str, inside: &str| (outside.to_owned(), inside.to_owned());
        assert_eq!(devices.devices, [name("eth0", "eth0"), name("eth1", "net0")]);
        assert!(plan(&linux(json!({})), false, None).unwrap().is_none());
        let error = plan(&linux(json!({"eth0": {}})), false, None).err().unwrap().to_string();
        assert!(error.contains("netDevices"), "{error}");
        for bad in ["", "..", "a/b", "a b", "eth%d", "a:1", "abcdefghijklmnop"] {
            assert!(plan(&linux(json!({ bad: {} })), true, None).is_err(), "{bad:?}");
        }
        assert!(plan(&linux(json!({"eth0": {"name": "a/b"}})), true, None).is_err());
    }

    /// In a thread with a network namespace of its own, so that no device of the host is touched.
    fn alone<T: Send>(body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            thread.join().unwrap()
        })
    }

    fn make_veth(name: &str) {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]));
        let mut here = Netlink::open().unwrap();
        here.ask(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).unwrap();
        let (index, _) = here.link(name).unwrap();
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.prefix_len = 24;
        address.header.index = index;
        let ip = Ipv4Addr::new(192, 0, 2, 7).into();
        address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        here.ask(RouteNetlinkMessage::NewAddress(address), NLM_F_ACK | NLM_F_CREATE).unwrap();
        here.set_up(index, true).unwrap();
    }

    fn run(devices: serde_json::Value) -> Result<String, CreateError> {
        let bundle = tempfile::tempdir().unwrap();
        let mut spec = serde_json::to_value(crate::spec::default_spec()).unwrap();
        spec["mounts"] = json!([]);
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
        spec["linux"]["netDevices"] = devices;
        // Written before the exec, and only if the device is there by then.
        spec["linux"]["sysctl"] = json!({"net.ipv4.conf.net0.forwarding": "1"});
        let script = "cat /proc/net/dev /proc/net/fib_trie /proc/sys/net/ipv4/conf/net0/forwarding";
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        let spec = serde_json::from_value(spec).unwrap();
        let mut output = tempfile::tempfile().unwrap();
        let copy = || OwnedFd::from(output.try_clone().unwrap());
        let mut container = create(CreateOptions {
            id: "box",
            bundle: bundle.path(),
            spec: &spec,
            rootfs: &Rootfs::Directory("/".into()),
            netns: None,
            stdio: Stdio { stdin: copy(), stdout: copy(), stderr: copy() },
            console: None,
            no_pivot: false,
            preserve_fds: 0,
            no_new_keyring: true,
            gate: Gate::Owner,
            cgroup: None,
            placement: None,
            root: None,
            filter: None,
            meanwhile: None,
        })?;
        container.start().unwrap();
        container.wait().unwrap();
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn a_device_moves_in_with_its_name_and_addresses() {
        alone(|| {
            make_veth("skepveth");
            let text = run(json!({"skepveth": {"name": "net0"}})).unwrap();
            assert!(text.contains("net0:") && text.contains("192.0.2.7") && text.ends_with("1\n"), "{text}");
            let gone = Netlink::open().unwrap().link("skepveth").unwrap_err();
            assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
        });
    }

    #[test]
    fn a_device_that_cannot_move_stays_up_where_it_was() {
        alone(|| {
            make_veth("skepveth");
            let error = run(json!({"skepveth": {"name": "lo"}})).unwrap_err().to_string();
            assert!(error.contains("skepveth") && error.contains("name it"), "{error}");
            assert!(Netlink::open().unwrap().link("skepveth").unwrap().1, "it was up");
        });
    }

    #[test]
    fn devices_come_back_when_a_later_step_fails() {
        alone(|| {
            make_veth("skepveth");
            // There will be no device of the name that a sysctl is for.
            let error = run(json!({"skepveth": {"name": "net1"}})).unwrap_err().to_string();
            assert!(error.contains("net0"), "{error}");
            let device = Netlink::open().unwrap().find("skepveth").unwrap();
            assert!(device.up);
            assert_eq!(device.addresses.len(), 1);
            // The second cannot be moved.
            let error = run(json!({"skepveth": {"name": "net0"}, "skepzzz": {}})).unwrap_err().to_string();
            assert!(error.contains("skepzzz"), "{error}");
            assert_eq!(Netlink::open().unwrap().find("skepveth").unwrap().addresses.len(), 1);
        });
    }
}
