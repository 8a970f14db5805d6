//! One netlink socket: requests out, acknowledgements and dumps back.

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::namespace::{Namespace, NamespaceError};

/// How long one answer may take. The kernel answers in microseconds; this only keeps a lost answer from hanging us.
const ANSWER_TIMEOUT_S: i64 = 10;
/// Room for one datagram of answers; the kernel's dumps use at most 32 KiB each.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Send and receive room of the socket: an nftables transaction of a few thousand ports is some megabytes.
const SOCKET_BYTES: usize = 8 * 1024 * 1024;
/// How often a dump is started again because something changed while it ran.
const DUMP_ATTEMPTS: usize = 10;
/// `NLMSGERR_ATTR_MSG` in `linux/netlink.h`.
const ERROR_TEXT_ATTRIBUTE: u16 = 1;
const HEADER_BYTES: usize = 16;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace could not be entered to make the socket.
    #[error("cannot open a netlink socket in the namespace")]
    Namespace(#[from] NamespaceError),
    /// The socket could not be made.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The request could not be handed to the kernel.
    #[error("cannot send: {what}")]
    Send {
        /// What was asked.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The answer could not be received.
    #[error("no answer to: {what}")]
    Receive {
        /// What was asked.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("cannot {what}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's own explanation, often empty.
        detail: String,
        /// The error number.
        #[source]
        errno: Errno,
    },
    /// The answer makes no sense to us.
    #[error("cannot understand the answer to: {what}: {reason}")]
    Decode {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The link does not exist.
    #[error("there is no link named {0}")]
    NoLink(String),
    /// The list changed every time while it was read.
    #[error("cannot read a stable answer to: {0}")]
    Unstable(String),
}

impl NetlinkError {
    /// The kernel's error number, if the kernel refused the request.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Refusals that mean "it is so already".
pub(crate) trait Ignore {
    /// Turns a refusal with one of these numbers into success.
    fn ignore(self, numbers: &[Errno]) -> Result<(), NetlinkError>;
}

impl<T> Ignore for Result<T, NetlinkError> {
    fn ignore(self, numbers: &[Errno]) -> Result<(), NetlinkError> {
        match self {
            Ok(_) => Ok(()),
            Err(error) if error.errno().is_some_and(|errno| numbers.contains(&errno)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    pub(crate) fn open(namespace: &Namespace, protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket =
            namespace.run_here_or_inside(|| Socket::new(protocol))?.map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        // Without these two an error is a bare number; kernels before 4.12 do not have them.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let timeout = TimeVal::new(ANSWER_TIMEOUT_S, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).map_err(|e| NetlinkError::Open(e.into()))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Makes room for large transactions.
    pub(crate) fn widen(&self) -> Result<(), NetlinkError> {
        setsockopt(&self.socket, sockopt::SndBufForce, &SOCKET_BYTES)
            .map_err(|e| NetlinkError::Open(e.into()))?;
        setsockopt(&self.socket, sockopt::RcvBufForce, &SOCKET_BYTES)
            .map_err(|e| NetlinkError::Open(e.into()))
    }

    /// Sends every request in one system call, waits for every acknowledgement, returns what else came back.
    pub(crate) fn transact<M>(&mut self, requests: Vec<(String, M, u16)>) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
    {
        let first = self.sequence.wrapping_add(1);
        let (mut bytes, mut names) = (Vec::new(), Vec::with_capacity(requests.len()));
        for (what, message, flags) in requests {
            self.append(&mut bytes, message, flags | NLM_F_REQUEST | NLM_F_ACK);
            names.push(what);
        }
        let whole = names.join("; ");
        self.send(&bytes, &whole)?;

        let mut waiting = names.len();
        let (mut refused, mut answers) = (None, Vec::new());
        while waiting > 0 {
            for (header, payload) in self.receive::<M>(&whole)? {
                let Some(what) = names.get(header.sequence_number.wrapping_sub(first) as usize) else {
                    continue; // the late answer to something that timed out before
                };
                match payload {
                    NetlinkPayload::Error(error) => {
                        waiting = waiting.saturating_sub(1);
                        if let (Some(error), None) = (refusal(what, &error), &refused) {
                            refused = Some(error);
                        }
                    }
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
        refused.map_or(Ok(answers), Err)
    }

    /// Asks for a whole list.
    pub(crate) fn dump<M>(&mut self, what: &str, message: M) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.try_dump(what, message.clone())? {
                return Ok(list);
            }
        }
        Err(NetlinkError::Unstable(what.to_owned()))
    }

    /// `None` when the list changed while it was read.
    fn try_dump<M>(&mut self, what: &str, message: M) -> Result<Option<Vec<M>>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
    {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP);
        let sequence = self.sequence;
        self.send(&bytes, what)?;
        let (mut list, mut interrupted) = (Vec::new(), false);
        loop {
            for (header, payload) in self.receive::<M>(what)? {
                if header.sequence_number != sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(list)),
                    NetlinkPayload::Error(error) => match refusal(what, &error) {
                        Some(error) => return Err(error),
                        None => return Ok(Some(list)),
                    },
                    NetlinkPayload::InnerMessage(message) => list.push(message),
                    _ => {}
                }
            }
        }
    }

    /// Sends a prepared nftables batch whose last message but one alone asks for an acknowledgement.
    ///
    /// The kernel reports every message it refuses, then the acknowledged one; when it cannot even begin (no
    /// permission), it answers the begin message alone.
    pub(crate) fn batch<M>(&mut self, what: &str, messages: Vec<(M, u16)>) -> Result<(), NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
    {
        let begin = self.sequence.wrapping_add(1);
        let count = messages.len();
        let mut bytes = Vec::new();
        for (index, (message, flags)) in messages.into_iter().enumerate() {
            let ack = if index + 2 == count { NLM_F_ACK } else { 0 };
            self.append(&mut bytes, message, flags | NLM_F_REQUEST | ack);
        }
        let acknowledged = self.sequence.wrapping_sub(1);
        self.send(&bytes, what)?;
        let mut refused = None;
        loop {
            for (header, payload) in self.receive::<M>(what)? {
                let number = header.sequence_number;
                if number.wrapping_sub(begin) as usize >= count {
                    continue;
                }
                let NetlinkPayload::Error(error) = payload else { continue };
                if let (Some(error), None) = (refusal(what, &error), &refused) {
                    refused = Some(error);
                }
                if number == acknowledged || number == begin {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn append<M: NetlinkSerializable>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        let end = start + message.buffer_len();
        message.serialize(&mut bytes[start..end]);
    }

    fn send(&self, bytes: &[u8], what: &str) -> Result<(), NetlinkError> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Send { what: what.to_owned(), source }),
            }
        }
    }

    fn receive<M>(&mut self, what: &str) -> Result<Vec<(NetlinkHeader, NetlinkPayload<M>)>, NetlinkError>
    where
        M: NetlinkDeserializable + std::fmt::Debug,
    {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Receive { what: what.to_owned(), source }),
            }
        }
        let decode = |reason: String| NetlinkError::Decode { what: what.to_owned(), reason };
        let (mut rest, mut messages) = (self.buffer.as_slice(), Vec::new());
        while rest.len() >= HEADER_BYTES {
            let length =
                NetlinkBuffer::new_checked(&rest).map_err(|e| decode(e.to_string()))?.length() as usize;
            let message = NetlinkMessage::deserialize(rest).map_err(|e| decode(e.to_string()))?;
            messages.push(message.into_parts());
            rest = rest.get(length.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn refusal(what: &str, error: &ErrorMessage) -> Option<NetlinkError> {
    let code = error.code?;
    let texts = error.header.get(HEADER_BYTES..).unwrap_or_default();
    let detail = NlasIterator::new(texts)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == ERROR_TEXT_ATTRIBUTE)
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    Some(NetlinkError::Refused {
        what: what.to_owned(),
        detail,
        errno: Errno::from_raw(code.get().saturating_neg()),
    })
}
