//! JSON as Go's decoder takes it: `null` means "not given", unknown fields are ignored.
//!
//! The `docker` command sends `"Env": null` and `"IPAM": null`; every wire struct here has serde defaults, so taking
//! the nulls out first gives Go's meaning.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes `T` from JSON bytes; an empty body is `{}`, as dockerd takes it.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return from_value(Value::Object(serde_json::Map::new()));
    }
    from_value(serde_json::from_slice(bytes)?)
}

/// Decodes `T` from a JSON value.
pub fn from_value<T: DeserializeOwned>(mut value: Value) -> Result<T, serde_json::Error> {
    strip_nulls(&mut value);
    serde_json::from_value(value)
}

/// Removes every null member of every object, at any depth.
pub fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(elements) => {
            elements.retain(|element| !element.is_null());
            elements.iter_mut().for_each(strip_nulls);
        }
        _ => {}
    }
}
