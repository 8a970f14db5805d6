//! Images of this node.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep_image::{Digest, ImageUse, Reference, Removed, Store};

use super::{Ctx, json};
use crate::engine::Engine;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::params::Params;
use crate::version::page_not_found;
use crate::wire;

/// The filters of dockerd that have a meaning here.
const FILTERS: [&str; 5] = ["before", "dangling", "label", "reference", "since"];

/// `GET /images/json`.
pub(super) async fn list(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&FILTERS)?;
    if let Some(name) = ["before", "since"].iter().find(|name| !filters.values(name).is_empty()) {
        return Err(ApiError::unimplemented(&format!("the image filter '{name}'")));
    }
    let store = engine.images().clone();
    let images = blocking(move || Ok(store.list())).await?;
    let images = images.into_iter().filter(|image| matches(&filters, image)).filter_map(|mut image| {
        // Only the names that match are shown, and so no image of which none does.
        image.repo_tags.retain(|name| filters.any("reference", |pattern| name_matches(pattern, name)));
        (filters.values("reference").is_empty() || !image.repo_tags.is_empty()).then_some(image)
    });
    Ok(json(images.map(wire::ImageSummary::from).collect::<Vec<_>>()))
}

/// Everything below `/images/` that names an image: the name, which may have slashes, stands before the last part.
pub(super) async fn by_name(
    State(engine): Ctx,
    method: Method,
    Path(rest): Path<String>,
    params: Params,
) -> Result<Response> {
    match (method, rest.rsplit_once('/')) {
        (Method::DELETE, _) => remove(&engine, rest, params.flag("force")).await,
        (Method::GET | Method::HEAD, Some((name, "json"))) => inspect(&*engine, name).await,
        (Method::POST, Some((name, "tag"))) => tag(&*engine, name, &params).await,
        (Method::GET, Some((name, "history"))) => history(&*engine, name).await,
        (Method::POST, None) if rest == "create" => {
            Err(ApiError::unimplemented("pulling from a registry (use \"image load\")"))
        }
        _ => Ok(page_not_found().await),
    }
}

/// `GET /distribution/{name}/json`: what the registry says of an image. There is none to ask; the command line then
/// warns that nodes take the image by its name.
pub(super) async fn distribution(Path(rest): Path<String>) -> Result<Response> {
    let Some(name) = rest.strip_suffix("/json") else { return Ok(page_not_found().await) };
    Err(ApiError::not_found(format!(
        "no registry is asked for {name}: nodes take images from each other, by name"
    )))
}

async fn inspect(engine: &dyn Engine, name: &str) -> Result<Response> {
    let (store, name) = (engine.images().clone(), name.to_owned());
    let image = blocking(move || {
        let image = store.resolve(&name)?;
        let config = parse_config(&store, &image)?;
        Ok(wire::Image::new(&image, &config))
    });
    Ok(json(image.await?))
}

async fn history(engine: &dyn Engine, name: &str) -> Result<Response> {
    let (store, name) = (engine.images().clone(), name.to_owned());
    let lines = blocking(move || {
        let image = store.resolve(&name)?;
        let config = parse_config(&store, &image)?;
        Ok(wire::history(&image, &config))
    });
    Ok(json(lines.await?))
}

async fn tag(engine: &dyn Engine, name: &str, params: &Params) -> Result<Response> {
    let repository = params.get("repo").unwrap_or_default();
    let target = match params.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let (store, name) = (engine.images().clone(), name.to_owned());
    blocking(move || {
        let target: Reference = target.parse().map_err(skep_image::Error::from)?;
        let image = store.resolve(&name)?;
        Ok(store.tag(&image.id, &target)?)
    })
    .await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(engine: &Arc<dyn Engine>, name: String, force: bool) -> Result<Response> {
    let (store, engine) = (engine.images().clone(), Arc::clone(engine));
    let removed = blocking(move || {
        let in_use = |id: &Digest| {
            engine.image_in_use(&id.to_string()).map(|container| ImageUse { container, running: true })
        };
        Ok(store.remove(&name, force, &in_use)?)
    })
    .await?;
    let lines: Vec<Value> = removed
        .into_iter()
        .map(|line| match line {
            Removed::Untagged(name) => json!({ "Untagged": name }),
            Removed::Deleted(digest) => json!({ "Deleted": digest.to_string() }),
        })
        .collect();
    Ok(json(lines))
}

/// Runs what reads or writes the disk where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(format!("the image store failed: {error}")))?
}

fn parse_config(store: &Store, image: &skep_image::Image) -> Result<Value> {
    serde_json::from_slice(&store.read_config(image)?)
        .map_err(|error| ApiError::internal(format!("the configuration of {} is damaged: {error}", image.id)))
}

fn matches(filters: &Filters, image: &skep_image::ImageSummary) -> bool {
    let dangling = image.repo_tags.is_empty();
    filters.any("dangling", |wanted| matches!(wanted, "1" | "true") == dangling)
        && filters.labels("label", &image.labels)
}

fn name_matches(pattern: &str, name: &str) -> bool {
    // A pattern without a tag means every tag (path.Match in dockerd).
    let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    glob(pattern, name) || glob(pattern, repository)
}

/// A shell pattern with `*` (not over a slash) and `?`; the rest means itself.
fn glob(pattern: &str, text: &str) -> bool {
    let mut letters = pattern.chars();
    match letters.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = letters.as_str();
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.take_while(|end| !text[..*end].contains('/')).any(|end| glob(rest, &text[end..]))
        }
        Some(letter) => text
            .strip_prefix(|found: char| found == letter || (letter == '?' && found != '/'))
            .is_some_and(|text| glob(letters.as_str(), text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns() {
        assert!(glob("busy*", "busybox"));
        assert!(glob("*:1", "busybox:1"));
        assert!(glob("a/?", "a/b"));
        assert!(!glob("*", "a/b"));
        assert!(!glob("busy", "busybox"));
    }
}
