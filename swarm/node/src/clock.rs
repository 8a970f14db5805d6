//! The node's clock and randomness: where the pure crates get their inputs.

use std::time::{SystemTime, UNIX_EPOCH};

use skep_state::{Timestamp, id};

/// This moment, by the system's clock.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}

/// A new random object ID.
pub(crate) fn new_id() -> String {
    id::from_random(rand::random())
}
