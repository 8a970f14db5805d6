//! What a manager does besides running tasks: admit nodes, dispatch tasks, and, while it leads, decide.

mod admission;
mod dispatcher;
mod leader;
mod part;
mod transport;

pub(crate) use admission::admit;
pub(crate) use dispatcher::{Dispatcher, Message};
pub(crate) use leader::Leader;
pub(crate) use part::{ManagerPart, ManagerSlot, peer_config};
pub(crate) use transport::MeshTransport;
