//! The Docker Engine API over a node, as the `docker` command and Docker's client libraries speak it.
//!
//! [`serve`] answers on unix and TCP sockets, [`router`] is the same as a service for tests and other listeners. Both work
//! over an [`Engine`]: a [`skep_node::Node`], or a stand-in.
//!
//! - `listen`: unix socket, TCP to clients with a certificate, plain TCP.
//! - `route`: what each path does. Requests are checked by [`skep_control::request`] before anything is written.
//! - `events`: what happened to the nodes, for `GET /events`.
//! - `wire`: the JSON of each object, one file an object. State's specs are stored in their wire form and are used as
//!   they are; objects have fields of their own that must not get out, so each is written by a struct of its own.
//! - `version`: path prefixes `/v1.24` to `/v1.50`, and the headers on every reply.
//! - `params`, `filters`, `body`: what comes in, decoded as leniently as Go does it.
//! - `error`: what goes wrong, as `{"message": "..."}` with dockerd's status codes.

mod body;
mod engine;
mod error;
mod events;
mod filters;
mod host;
mod listen;
mod params;
mod route;
mod server;
mod tls;
mod version;
mod wire;

pub use engine::Engine;
pub use listen::{CONNECTIONS_MAX, Listen, TlsFilesError, tls_config};
pub use server::{DRAIN_TIME, router, serve};
pub use version::{API_VERSION, API_VERSION_MIN};
