//! Networks, secrets and configs: what there is of them, to read.

use axum::extract::{Path, State};
use axum::response::Response;
use skep_control::request::find;
use skep_state::spec::StringMap;

use super::{Ctx, json};
use crate::error::Result;
use crate::filters::Filters;
use crate::params::Params;
use crate::wire;

/// The filters that dockerd accepts.
const NETWORK_FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
/// The same for secrets and configs.
const CONFIG_FILTERS: [&str; 4] = ["id", "label", "name", "names"];

/// `GET /networks`. A node that is no manager knows of none.
pub(super) async fn networks(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&NETWORK_FILTERS)?;
    let networks: Vec<wire::Network> = engine
        .read(|state| {
            let wanted = state.networks.values().filter(|network| {
                filters.any("id", |part| network.meta.id.contains(part))
                    && filters.any("name", |part| network.name.contains(part))
                    && filters.any("driver", |driver| network.driver == driver)
                    && filters.any("scope", |scope| scope == "swarm")
                    && filters.any("type", |wanted| (wanted == "builtin") == network.ingress)
                    && filters.any("dangling", |wanted| !matches!(wanted, "1" | "true"))
                    && filters.labels("label", &network.labels)
            });
            wanted.map(wire::Network::from).collect()
        })
        .unwrap_or_default();
    Ok(json(networks))
}

/// `GET /networks/{id}`.
pub(super) async fn network(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let network = engine.read(|state| find::network(state, &reference).map(wire::Network::from))??;
    Ok(json(network))
}

/// `GET /secrets`.
pub(super) async fn secrets(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&CONFIG_FILTERS)?;
    let secrets: Vec<wire::Secret> = engine.read(|state| {
        let wanted = state.secrets.values().filter(|secret| {
            config_matches(&filters, &secret.meta.id, &secret.spec.name, &secret.spec.labels)
        });
        wanted.map(wire::Secret::from).collect()
    })?;
    Ok(json(secrets))
}

/// `GET /secrets/{id}`.
pub(super) async fn secret(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let secret = engine.read(|state| find::secret(state, &reference).map(wire::Secret::from))??;
    Ok(json(secret))
}

/// `GET /configs`.
pub(super) async fn configs(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&CONFIG_FILTERS)?;
    let configs: Vec<wire::Config> = engine.read(|state| {
        let wanted = state.configs.values().filter(|config| {
            config_matches(&filters, &config.meta.id, &config.spec.name, &config.spec.labels)
        });
        wanted.map(wire::Config::from).collect()
    })?;
    Ok(json(configs))
}

/// `GET /configs/{id}`.
pub(super) async fn config(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let config = engine.read(|state| find::config(state, &reference).map(wire::Config::from))??;
    Ok(json(config))
}

/// `name` matches the beginning, `names` the whole name.
fn config_matches(filters: &Filters, id: &str, name: &str, labels: &StringMap) -> bool {
    filters.any("id", |prefix| id.starts_with(prefix))
        && filters.any("name", |prefix| name.starts_with(prefix))
        && filters.any("names", |whole| name == whole)
        && filters.labels("label", labels)
}
