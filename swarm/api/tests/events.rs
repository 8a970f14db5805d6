//! `GET /events`: what a client hears of nodes that change.

#![allow(clippy::unwrap_used, reason = "the lint knows tests, not their helpers")]

#[allow(dead_code, reason = "the other tests use the rest of it")]
mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::Fake;
use tower::ServiceExt as _;

/// More than the time between two looks at the state.
const LOOKS: Duration = Duration::from_millis(600);

async fn send(router: &Router, method: &str, path: &str, body: &Value) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn get(router: &Router, path: &str) -> (StatusCode, Vec<u8>) {
    send(router, "GET", path, &Value::Null).await
}

#[tokio::test]
async fn a_node_that_changes_is_told_to_those_who_ask_then_and_later() {
    let folder = tempfile::tempdir().unwrap();
    let router = skep_api::router(Fake::new(folder.path()), Vec::new());
    let init = json!({ "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "10.77.0.1" });
    assert_eq!(send(&router, "POST", "/swarm/init", &init).await.0, StatusCode::OK);
    // What is there at the first look is no event.
    tokio::time::sleep(LOOKS).await;
    let open = Request::builder().uri("/events").body(Body::empty()).unwrap();
    let mut open = router.clone().oneshot(open).await.unwrap().into_body();

    let node: Value = serde_json::from_slice(&get(&router, "/nodes/self").await.1).unwrap();
    let mut spec = node["Spec"].clone();
    spec["Availability"] = json!("drain");
    let path = format!("/nodes/self/update?version={}", node["Version"]["Index"]);
    assert_eq!(send(&router, "POST", &path, &spec).await.0, StatusCode::OK);

    let frame = tokio::time::timeout(LOOKS, open.frame()).await.unwrap().unwrap().unwrap();
    let line = frame.into_data().unwrap();
    assert_eq!(line.last(), Some(&b'\n'));
    let event: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(
        (&event["Type"], &event["Action"], &event["scope"]),
        (&json!("node"), &json!("update"), &json!("swarm"))
    );
    assert_eq!(
        event["Actor"]["Attributes"],
        json!({ "name": "host1", "availability.old": "active", "availability.new": "drain" })
    );

    // Who asks later hears the same, and the answer ends with the moment that was asked for.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
    let node = "filters=%7B%22type%22:%5B%22node%22%5D,%22node%22:%7B%22host%22:true%7D%7D";
    let (status, late) = get(&router, &format!("/events?since=1.5&until={now}&{node}")).await;
    assert_eq!((status, serde_json::from_slice::<Value>(&late).unwrap()), (StatusCode::OK, event));
    for other in ["since=1&until=2", "until=9999999999&filters=%7B%22event%22:%5B%22create%22%5D%7D"] {
        let quiet = tokio::time::timeout(LOOKS, get(&router, &format!("/events?{other}"))).await;
        assert!(quiet.is_err() || quiet.is_ok_and(|(_, told)| told.is_empty()), "{other}");
    }
    for wrong in ["/events?since=soon", "/events?since=5&until=4", "/events?until=1.x"] {
        assert_eq!(get(&router, wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
}
