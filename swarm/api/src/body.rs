//! The JSON body of a request, decoded as Go does it.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_state::lenient;

use crate::error::{ApiError, Result};

/// The longest JSON body: what swarmkit's gRPC takes at most (`GRPCMaxMsgSize`).
const JSON_BODY_MAX: usize = 4 * 1024 * 1024;

/// A JSON body of any content type; an empty one is `{}`.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self> {
        decode(&read(request.into_body()).await?).map(Self)
    }
}

async fn read(body: Body) -> Result<bytes::Bytes> {
    // The only other failure is a client that went away, which will not read the answer.
    axum::body::to_bytes(body, JSON_BODY_MAX).await.map_err(|_| {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body cannot be read or is larger than {JSON_BODY_MAX} bytes"),
        )
    })
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let invalid = |error: serde_json::Error| ApiError::bad_request(format!("invalid JSON: {error}"));
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return lenient::from_slice(bytes).map_err(invalid);
    }
    let value: Value = serde_json::from_slice(bytes).map_err(invalid)?;
    let value = match value {
        Value::Null => Value::Object(serde_json::Map::new()),
        // The decoder would take an array for the fields in order.
        Value::Object(_) => value,
        _ => return Err(ApiError::bad_request("invalid JSON: the body must be an object")),
    };
    check_replicas(&value)?;
    lenient::from_value(value).map_err(invalid)
}

/// A replica count is unsigned in every type: say what is wrong with a negative one before the decoder does.
fn check_replicas(value: &Value) -> Result<()> {
    let counts = ["/Mode/Replicated/Replicas", "/Mode/ReplicatedJob/TotalCompletions"];
    for count in counts.iter().filter_map(|path| value.pointer(path)) {
        if count.is_number() && !count.is_u64() {
            return Err(ApiError::bad_request(format!(
                "invalid replica count {count}: must be a whole number, 0 or more"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skep_state::spec::ServiceSpec;

    use super::*;

    #[test]
    fn nulls_unknown_fields_and_nothing_at_all_are_taken() {
        let spec: ServiceSpec =
            decode(br#"{"Name":"web","Labels":null,"TaskTemplate":{"ContainerSpec":{"Env":null}},"New":1}"#)
                .unwrap();
        assert_eq!(spec.name, "web");
        assert_eq!(decode::<ServiceSpec>(b" \n").unwrap(), ServiceSpec::default());
        assert_eq!(decode::<ServiceSpec>(b"null").unwrap(), ServiceSpec::default());
        assert!(decode::<ServiceSpec>(b"[]").is_err());
    }

    #[test]
    fn a_negative_replica_count_is_named() {
        let refused = decode::<ServiceSpec>(br#"{"Mode":{"Replicated":{"Replicas":-1}}}"#).unwrap_err();
        assert_eq!(refused.status.as_u16(), 400);
        assert_eq!(refused.message, "invalid replica count -1: must be a whole number, 0 or more");
        assert!(decode::<ServiceSpec>(br#"{"Mode":{"Replicated":{"Replicas":1.5}}}"#).is_err());
        assert!(decode::<ServiceSpec>(b"{").unwrap_err().message.starts_with("invalid JSON: "));
    }

    #[tokio::test]
    async fn a_body_has_a_largest_size() {
        let refused = read(Body::from(vec![b' '; JSON_BODY_MAX + 1])).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read(Body::from(vec![b' '; JSON_BODY_MAX])).await.unwrap().len(), JSON_BODY_MAX);
    }
}
