//! Two and more endpoints on loopback.

mod clocks;
mod datagrams;
mod epochs;
mod joining;
mod paths;
mod relay;
mod renew;
mod requests;
mod restart;
mod rotation;
mod strangers;
mod support;
mod twins;
