//! Two and more endpoints on loopback.

mod datagrams;
mod joining;
mod paths;
mod relay;
mod requests;
mod restart;
mod strangers;
mod support;
mod twins;
