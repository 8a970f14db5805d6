//! What a manager does besides running tasks: admit nodes, dispatch tasks, and, while it leads, decide.

mod admission;
mod dispatcher;
mod issuing;
mod leader;
mod limits;
pub(crate) mod locking;
mod part;
mod settings;
mod transport;

pub(crate) use admission::admit;
pub(crate) use dispatcher::{Dispatcher, Message};
pub(crate) use issuing::{Issued, issue, sign};
pub(crate) use leader::Leader;
pub(crate) use part::{ManagerPart, ManagerSlot, peer_config};
pub(crate) use settings::{new_token, update};
pub(crate) use transport::MeshTransport;
