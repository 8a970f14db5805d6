//! The control plane's decisions, as pure functions over the swarm's state: no I/O, no clock, no randomness.

pub mod request;
