//! Traffic classes: one QUIC connection each, all on the same socket.
//!
//! The acceptor must know the class before the handshake, because the transport settings are chosen then. The dialler
//! therefore writes it into the first byte of the random connection id that it invents for its first packet (RFC 9000,
//! 7.2), and says it again, authenticated, in the first message of the connection.

use quinn::ConnectionId;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Requests and sessions: small, never waits behind anything big. Heartbeats run here.
    Control,
    /// Datagrams (overlay packets) only: **no congestion control of its own**, since the flows inside have theirs.
    /// Carries no streams.
    Data,
    /// Streams of bulk data (image layers, logs), with ordinary congestion control.
    Bulk,
    /// Packets of connections between two nodes that have no direct path, to and from the manager between them (see
    /// `relay`). The mesh's own: carries neither streams nor the user's datagrams.
    Relay,
}

/// Length of the connection id that a dialler invents: long enough that two never meet (RFC 9000 asks for 8 or more).
const DIALLED_CID_LEN: usize = 16;
const JOIN_MARK: u8 = b'J';
const RENEW_MARK: u8 = b'R';

impl Class {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Control, Self::Data, Self::Bulk, Self::Relay];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Data => 1,
            Self::Bulk => 2,
            Self::Relay => 3,
        }
    }

    pub(crate) fn mark(self) -> u8 {
        match self {
            Self::Control => b'C',
            Self::Data => b'D',
            Self::Bulk => b'B',
            Self::Relay => b'V',
        }
    }

    pub(crate) fn from_mark(mark: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.mark() == mark)
    }

    /// Whether streams, and heartbeats as the only datagrams, run on connections of this class. On the others every
    /// datagram is a packet that is carried.
    pub(crate) fn has_streams(self) -> bool {
        matches!(self, Self::Control | Self::Bulk)
    }
}

/// What a connection asks to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Mesh(Class),
    Join,
    /// A member whose certificate is of no use asks for another one.
    Renew,
}

impl Purpose {
    pub(crate) fn new_cid(self) -> ConnectionId {
        let mut bytes: [u8; DIALLED_CID_LEN] = rand::random();
        bytes[0] = match self {
            Self::Mesh(class) => class.mark(),
            Self::Join => JOIN_MARK,
            Self::Renew => RENEW_MARK,
        };
        ConnectionId::new(&bytes)
    }

    /// Nothing for a packet that no dialler of ours has sent.
    pub(crate) fn from_cid(cid: &ConnectionId) -> Option<Self> {
        match *cid.first()? {
            _ if cid.len() != DIALLED_CID_LEN => None,
            JOIN_MARK => Some(Self::Join),
            RENEW_MARK => Some(Self::Renew),
            mark => Class::from_mark(mark).map(Self::Mesh),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_survive_the_connection_id() {
        let all = Class::ALL.into_iter().map(Purpose::Mesh).chain([Purpose::Join, Purpose::Renew]);
        for purpose in all {
            assert_eq!(Purpose::from_cid(&purpose.new_cid()), Some(purpose));
        }
        assert_eq!(Purpose::from_cid(&ConnectionId::new(&[])), None);
        assert_eq!(Purpose::from_cid(&ConnectionId::new(b"Cshort")), None);
        assert_eq!(Purpose::from_cid(&ConnectionId::new(&[0; 16])), None);
    }
}
