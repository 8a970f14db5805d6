//! What the playground asks of its nodes' daemons.

use std::future::Future;

use serde_json::{Value, json};

use super::Error;
use super::layout::Record;
use crate::cli::client::{CliError, Client};
use crate::cli::text;

/// Runs API calls to their end.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Api(CliError::Io { what: "cannot start".to_owned(), source }))?;
    runtime.block_on(work)
}

/// The daemon of a node.
pub(super) fn client(record: &Record, number: u8) -> Result<Client, Error> {
    Ok(Client::new(&record.host(number))?)
}

/// Node 1 makes a swarm, the others join it: managers first.
pub(super) fn make_swarm(record: &Record, nodes: u8, managers: u8, step: &dyn Fn(&str)) -> Result<(), Error> {
    block_on(async {
        step("making the swarm on node 1");
        let first = client(record, 1)?;
        let body = json!({ "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": record.address(1).to_string() });
        first.post("/swarm/init", &body).await?;
        let swarm: Value = first.get("/swarm").await?;
        for number in 2..=nodes {
            let (role, pointer) = if number <= managers {
                ("manager", "/JoinTokens/Manager")
            } else {
                ("worker", "/JoinTokens/Worker")
            };
            step(&format!("node {number} joins as a {role}"));
            let body = json!({
                "ListenAddr": "0.0.0.0:2377",
                "AdvertiseAddr": record.address(number).to_string(),
                "RemoteAddrs": [format!("{}:2377", record.address(1))],
                "JoinToken": text(&swarm, pointer),
            });
            client(record, number)?.post("/swarm/join", &body).await?;
        }
        Ok(())
    })
}
