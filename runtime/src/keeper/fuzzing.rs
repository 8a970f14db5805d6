//! Messages to a live keeper, and the records on its disk.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::KeeperOptions;
use super::protocol::{MAX_MESSAGE, Request};
use super::records::Record;
use super::server::{End, Server};
use crate::process::Process;
use crate::process::Stat;

/// Between the messages of one client.
const END: u8 = 0;

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// One client's messages. Whatever they are, the keeper is there for the next client.
pub fn keeper(bytes: &[u8]) {
    SERVER.with_borrow_mut(|server| {
        if server.is_none() {
            *server = Some(start());
        }
        if let Some(server) = server {
            converse(server, bytes);
        }
    });
}

/// It has a cgroup parent that nobody else has, and nothing is ever made below it.
fn start() -> Server {
    let directory = std::env::temp_dir().join("keeper");
    let parent = format!("skep-fuzz-{}", std::process::id());
    match Server::start(KeeperOptions::new(directory.join("run"), directory.join("state"), parent)) {
        Ok(server) => server,
        Err(error) => panic!("no keeper to be fuzzed: {error}"),
    }
}

fn converse(server: &mut Server, bytes: &[u8]) {
    let Some((ours, theirs)) = pair() else { return };
    let Some(token) = server.admit(theirs) else { return };
    for message in bytes.split(|byte| *byte == END) {
        let request = serde_json::from_slice::<Request>(message).ok();
        if let Some(request) = &request {
            let again = serde_json::to_vec(request).unwrap_or_default();
            let read = serde_json::from_slice::<Request>(&again);
            assert!(read.is_ok_and(|read| format!("{read:?}") == format!("{request:?}")));
            // A container is what this must not make.
            if let Request::Create(wanted) = request
                && wanted.bundle.join(crate::spec::CONFIG_NAME).exists()
            {
                continue;
            }
        }
        if rustix::net::send(&ours, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
            break;
        }
        server.take_request(token);
        let mut answer = vec![0; MAX_MESSAGE + 1];
        let answer = rustix::net::recv(&ours, &mut answer[..], RecvFlags::DONTWAIT);
        if request.is_some() {
            assert!(answer.is_ok_and(|(length, _)| length > 0), "a request that is not answered");
        }
        if !server.clients.contains_key(&token) {
            break;
        }
    }
    server.drop_client(token);
    assert!(server.containers.is_empty());
    assert!(matches!(server.end.take(), None | Some(End::Exit | End::Reexec)));
}

fn pair() -> Option<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()
}

/// A record on disk, and the kernel's `stat` of a process.
pub fn record(bytes: &[u8]) {
    let _ = Stat::parse(&String::from_utf8_lossy(bytes));
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let _ = (record.alive(), Process::open(record.pid, record.pid_start));
    let again = serde_json::to_vec(&record).unwrap_or_default();
    let read = serde_json::from_slice::<Record>(&again);
    assert!(read.is_ok_and(|read| format!("{read:?}") == format!("{record:?}")));
}
