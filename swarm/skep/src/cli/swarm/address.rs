//! `swarm address`.

use clap::Args;
use serde_json::{Value, json};

use super::super::client::{CliError, Client};
use super::super::{print, text};

/// Flags of `address`; none shows what is.
#[derive(Debug, Args)]
pub(crate) struct Address {
    /// Address to listen on from now on: <ip|interface>[:port]
    #[arg(long, default_value = "")]
    listen_addr: String,
    /// Address told to other nodes from now on: <ip|interface>[:port]
    #[arg(long, default_value = "")]
    advertise_addr: String,
}

/// Shows or changes this node's address.
pub(super) async fn run(flags: Address, client: &Client) -> Result<(), CliError> {
    let addresses: Value = if flags.listen_addr.is_empty() && flags.advertise_addr.is_empty() {
        client.get("/skep/swarm/address").await?
    } else {
        let body = json!({ "ListenAddr": flags.listen_addr, "AdvertiseAddr": flags.advertise_addr });
        client.post("/skep/swarm/address", &body).await?
    };
    print(&format!(
        "Listening on:     {}\nKnown to others:  {}\n",
        text(&addresses, "/ListenAddr"),
        text(&addresses, "/AdvertiseAddr")
    ))
}
