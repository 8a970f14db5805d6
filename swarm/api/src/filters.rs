//! The `filters` parameter: JSON in one of two shapes.

use std::collections::BTreeMap;

use serde::Deserialize;
use skep_state::spec::StringMap;

use crate::error::{ApiError, Result};

/// What a list shall be narrowed to: for each name the values of which one must match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

/// Go clients send `{"label": {"a=b": true}}`, the others `{"label": ["a=b"]}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    /// Decodes the parameter; empty means no filters.
    pub(crate) fn parse(json: &str, accepted: &[&str]) -> Result<Self> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        let given: BTreeMap<String, Values> = serde_json::from_str(json)
            .map_err(|error| ApiError::bad_request(format!("invalid filters: {error}")))?;
        if let Some(name) = given.keys().find(|name| !accepted.contains(&name.as_str())) {
            return Err(ApiError::bad_request(format!("invalid filter '{name}'")));
        }
        let given = given.into_iter().map(|(name, values)| {
            let values = match values {
                Values::Map(values) => {
                    values.into_iter().filter(|(_, wanted)| *wanted).map(|(value, _)| value).collect()
                }
                Values::List(values) => values,
            };
            (name, values)
        });
        Ok(Self(given.filter(|(_, values): &(_, Vec<_>)| !values.is_empty()).collect()))
    }

    /// The values of a filter; none when it was not given.
    pub(crate) fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Replaces the values of a filter that was given.
    pub(crate) fn map_values(&mut self, name: &str, map: impl FnMut(String) -> String) {
        if let Some(values) = self.0.get_mut(name) {
            *values = std::mem::take(values).into_iter().map(map).collect();
        }
    }

    /// Whether the filter was not given or one of its values satisfies `test`.
    pub(crate) fn any(&self, name: &str, mut test: impl FnMut(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| test(value))
    }

    /// Whether every `name=value` or `name` of the filter is among the labels.
    pub(crate) fn labels(&self, name: &str, labels: &StringMap) -> bool {
        self.values(name).iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_mean_the_same() {
        let go = Filters::parse(r#"{"label":{"a=b":true,"c":true}}"#, &["label"]).unwrap();
        let others = Filters::parse(r#"{"label":["a=b","c"]}"#, &["label"]).unwrap();
        assert_eq!(go, others);
        assert_eq!(Filters::parse("", &[]).unwrap(), Filters::default());
        assert_eq!(Filters::parse(r#"{"label":{"a":false}}"#, &["label"]).unwrap(), Filters::default());
    }

    #[test]
    fn unknown_and_malformed_filters_are_refused() {
        let refused = Filters::parse(r#"{"colour":["red"]}"#, &["label"]).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.message.as_str()), (400, "invalid filter 'colour'"));
        assert_eq!(Filters::parse("[", &["label"]).unwrap_err().status.as_u16(), 400);
        assert_eq!(Filters::parse(r#"{"label":7}"#, &["label"]).unwrap_err().status.as_u16(), 400);
    }

    #[test]
    fn labels_must_all_match() {
        let labels: StringMap = [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into();
        let matches = |json: &str| Filters::parse(json, &["label"]).unwrap().labels("label", &labels);
        assert!(matches(r#"{"label":["a=b","c"]}"#));
        assert!(matches(r#"{"label":["a"]}"#));
        assert!(!matches(r#"{"label":["a=x"]}"#));
        assert!(!matches(r#"{"label":["a=b","d"]}"#));
    }
}
