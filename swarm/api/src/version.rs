//! The API version in front of the path, and the headers on every reply.
//!
//! Clients ask `/_ping` without a version and then use the lower of our version and theirs: `/v1.44/services`. Paths
//! without a version mean the newest one. Versions do not change what is done here.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

use crate::error::{ApiError, Result};

/// The newest version of the Docker Engine API that is spoken here.
pub const API_VERSION: &str = "1.50";
/// The oldest one.
pub const API_VERSION_MIN: &str = "1.24";

/// Takes the version off the path, and refuses versions that are not spoken here.
pub(crate) fn strip(request: &mut Request) -> Result<()> {
    let path = request.uri().path();
    let Some((given, rest)) = split(path) else { return Ok(()) };
    let version = number(given);
    if version < number(API_VERSION_MIN) {
        return Err(ApiError::bad_request(format!(
            "client version {given} is too old. Minimum supported API version is {API_VERSION_MIN}, please upgrade your client to a newer version"
        )));
    }
    if version > number(API_VERSION) {
        return Err(ApiError::bad_request(format!(
            "client version {given} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    let rewritten = match request.uri().query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let path: PathAndQuery =
        rewritten.parse().map_err(|_| ApiError::bad_request("the path of the request is not valid"))?;
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// Sets the headers that clients read.
pub(crate) fn set_headers(response: &mut Response, version: &str) {
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(API_VERSION));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    if let Ok(server) = HeaderValue::from_str(&format!("skep/{version} (linux)")) {
        headers.insert("Server", server);
    }
}

/// What every path gets that is not there, word for word as dockerd.
pub(crate) async fn page_not_found() -> Response {
    ApiError::not_found("page not found").into_response()
}

/// `/v1.44/services` as `1.44` and `/services`.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (version, rest) = rest.split_at(end);
    // `/volumes` and `/version` begin with a v as well.
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (major, minor) = version.split_once('.')?;
    (digits(major) && digits(minor)).then_some((version, rest))
}

fn number(version: &str) -> (u32, u32) {
    // A number too long to parse is newer than any.
    let part = |text: &str| text.parse().unwrap_or(u32::MAX);
    version.split_once('.').map_or((u32::MAX, 0), |(major, minor)| (part(major), part(minor)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn stripped(uri: &str) -> Result<String> {
        let mut request = Request::builder().uri(uri).body(Body::empty()).unwrap();
        strip(&mut request)?;
        Ok(request.uri().to_string())
    }

    #[test]
    fn versions_come_off_and_other_paths_stay() {
        assert_eq!(stripped("/v1.44/services?a=%20b").unwrap(), "/services?a=%20b");
        assert_eq!(stripped("/v1.24/images/a%2Fb/json").unwrap(), "/images/a%2Fb/json");
        assert_eq!(stripped("/v1.50").unwrap(), "/");
        for path in ["/version", "/volumes/v1.2", "/_ping", "/vx.y/z", "/v1/z"] {
            assert_eq!(stripped(path).unwrap(), path);
        }
    }

    #[test]
    fn too_old_and_too_new_say_what_would_do() {
        assert_eq!(
            stripped("/v1.23/info").unwrap_err().message,
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert_eq!(
            stripped("/v1.51/info").unwrap_err().message,
            "client version 1.51 is too new. Maximum supported API version is 1.50"
        );
        assert_eq!(stripped("/v1.99999999999/info").unwrap_err().status.as_u16(), 400);
        assert!(stripped("/v1.4/info").is_err(), "1.4 is older than 1.24");
    }
}
