//! The query of a request.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;

use crate::error::{ApiError, Result};
use crate::filters::Filters;

/// The query of a request: the last value of each name.
#[derive(Debug, Default)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    /// A parameter that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A switch, as dockerd reads it (`httputils.BoolValue`).
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.0.get(name).map(|value| value.trim().to_lowercase());
        !matches!(value.as_deref(), None | Some("" | "0" | "no" | "false" | "none"))
    }

    /// The object version that an update was made against; required.
    pub(crate) fn version(&self) -> Result<u64> {
        let given = self.0.get("version").map_or("", String::as_str);
        given.parse().map_err(|_| {
            ApiError::bad_request(format!("invalid object version '{given}': a number is required"))
        })
    }

    /// The filters, of which only `accepted` ones may be given.
    pub(crate) fn filters(&self, accepted: &[&str]) -> Result<Filters> {
        Filters::parse(self.get("filters").unwrap_or_default(), accepted)
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        // Pairs, not a map: Go takes a name that is given twice.
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map(|Query(pairs)| pairs);
        Ok(Self(pairs.unwrap_or_default().into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn switches_and_versions() {
        let params = params(&[("a", "1"), ("b", "False"), ("c", ""), ("d", "x"), ("version", "7")]);
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|name| params.flag(name)),
            [true, false, false, true, false]
        );
        assert_eq!(params.version().unwrap(), 7);
        assert_eq!(self::params(&[("version", "-1")]).version().unwrap_err().status.as_u16(), 400);
        assert!(self::params(&[]).version().is_err());
    }
}
