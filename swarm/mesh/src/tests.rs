//! Two and more endpoints on loopback.

mod datagrams;
mod joining;
mod requests;
mod restart;
mod strangers;
mod support;
