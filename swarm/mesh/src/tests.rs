//! Two and more endpoints on loopback.

mod clocks;
mod datagrams;
mod epochs;
mod joining;
mod moving;
mod paths;
mod relay;
mod relayed;
mod renew;
mod requests;
mod restart;
mod rotation;
mod strangers;
mod support;
mod twins;
