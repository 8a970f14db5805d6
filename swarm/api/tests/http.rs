//! The API over a stand-in for a node: statuses, headers, bodies, and what must not change.

// The lint knows tests, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use support::{Fake, NODE_ID};
use tower::ServiceExt as _;

struct Client {
    router: Router,
    fake: Fake,
    _store: tempfile::TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    fn message(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/json", "the CLI compares it with ==");
        let body = self.json();
        let members = body.as_object().unwrap();
        assert_eq!(members.len(), 1);
        members["message"].as_str().unwrap().to_owned()
    }
}

impl Client {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let fake = Fake::new(store.path());
        fake.add_image("whoami:latest");
        fake.add_image("whoami:2");
        Self { router: skep_api::router(fake.clone(), Vec::new()), fake, _store: store }
    }

    async fn in_swarm() -> Self {
        let client = Self::new();
        let reply = client.post("/swarm/init", json!({})).await;
        assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!(NODE_ID)));
        client
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Reply {
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 24).await.unwrap().to_vec();
        Reply { status: parts.status, headers: parts.headers, bytes }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Body::from(body.to_string())).await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, Body::empty()).await
    }

    async fn create(&self, spec: Value) -> Reply {
        self.post("/v1.44/services/create", spec).await
    }
}

fn spec(name: &str, image: &str, replicas: i64, port: u16) -> Value {
    json!({
        "Name": name, "Labels": null,
        "TaskTemplate": { "ContainerSpec": { "Image": image, "Env": null }, "Placement": {}, "Networks": null },
        "Mode": { "Replicated": { "Replicas": replicas } },
        "EndpointSpec": { "Mode": "vip", "Ports": [
            { "Protocol": "tcp", "TargetPort": 80, "PublishedPort": port, "PublishMode": "ingress" }
        ] },
    })
}

#[tokio::test]
async fn every_reply_carries_the_headers() {
    let client = Client::new();
    for path in ["/_ping", "/v1.44/_ping", "/nothing/here", "/v1.23/info", "/services"] {
        let reply = client.get(path).await;
        assert_eq!(reply.headers["api-version"], "1.50", "{path}");
        assert_eq!(reply.headers["ostype"], "linux");
        assert_eq!(reply.headers["docker-experimental"], "false");
        assert_eq!(reply.headers["server"], "skep/0.1.0 (linux)");
    }
    let reply = client.send(Method::HEAD, "/_ping", Body::empty()).await;
    assert_eq!((reply.status, reply.bytes.len()), (StatusCode::OK, 0));
    assert_eq!(reply.headers["swarm"], "inactive");
    assert_eq!(Client::in_swarm().await.get("/_ping").await.headers["swarm"], "active/manager");
}

#[tokio::test]
async fn what_is_not_there_is_a_page_not_found() {
    let client = Client::in_swarm().await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/v1.44/plugins"),
        (Method::PUT, "/services"),
        (Method::POST, "/containers/create"),
        (Method::GET, "/images/a/b/nothing"),
    ] {
        let reply = client.send(method, path, Body::empty()).await;
        assert_eq!((reply.status.as_u16(), reply.message().as_str()), (404, "page not found"), "{path}");
    }
    let old = client.get("/v1.23/info").await;
    assert_eq!(old.status, StatusCode::BAD_REQUEST);
    assert!(old.message().starts_with("client version 1.23 is too old."));
}

#[tokio::test]
async fn outside_a_swarm_and_on_a_worker_docker_s_sentences() {
    let client = Client::new();
    for path in ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/swarm/unlockkey"] {
        let reply = client.get(path).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(reply.message().starts_with("This node is not a swarm manager. Use \"docker swarm init\""));
    }
    assert_eq!(client.get("/networks").await.json(), json!([]), "lists of the node itself still work");
    let reply = client.post("/swarm/leave", json!({})).await;
    assert_eq!((reply.status.as_u16(), reply.message().as_str()), (503, "This node is not part of a swarm"));

    client.fake.become_worker();
    let reply = client.create(spec("web", "whoami:latest", 1, 0)).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.message().contains("Worker nodes can't be used to view or modify cluster state"));
    let info = client.get("/info").await.json();
    assert_eq!(info["Swarm"]["LocalNodeState"], "active");
    assert_eq!(info["Swarm"].get("Cluster"), None);
}

#[tokio::test]
async fn a_second_init_and_bad_joins_are_refused() {
    let client = Client::in_swarm().await;
    for path in ["/swarm/init", "/swarm/join"] {
        let reply = client.post(path, json!({})).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.message().starts_with("This node is already part of a swarm."));
    }
    let client = Client::new();
    let reply =
        client.post("/swarm/join", json!({ "RemoteAddrs": ["1.2.3.4:2377"], "JoinToken": " " })).await;
    assert_eq!((reply.status.as_u16(), reply.message().as_str()), (400, "invalid join token: it is empty"));
    let reply = client.post("/swarm/join", json!({ "JoinToken": "x" })).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let spec = json!({ "CAConfig": { "ExternalCAs": [{ "Protocol": "none", "URL": "https://ca" }] } });
    let reply = client.post("/swarm/init", json!({ "Spec": spec })).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(client.get("/info").await.json()["Swarm"]["LocalNodeState"], "inactive");
}

#[tokio::test]
async fn managers_are_locked_and_unlocked() {
    let client = Client::in_swarm().await;
    assert_eq!(client.get("/swarm/unlockkey").await.json()["UnlockKey"], "");
    let swarm = client.get("/swarm").await.json();
    let mut spec = swarm["Spec"].clone();
    spec["EncryptionConfig"]["AutoLockManagers"] = true.into();
    let version = swarm["Version"]["Index"].as_u64().unwrap();
    let reply = client.post(&format!("/swarm/update?version={version}"), spec.clone()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let key = client.get("/swarm/unlockkey").await.json()["UnlockKey"].clone();
    assert!(key.as_str().unwrap().starts_with("SWMKEY-1-"));
    let version = client.get("/swarm").await.json()["Version"]["Index"].as_u64().unwrap();
    let path = format!("/swarm/update?version={version}&rotateManagerUnlockKey=true");
    assert_eq!(client.post(&path, spec).await.status, StatusCode::OK);
    assert_ne!(client.get("/swarm/unlockkey").await.json()["UnlockKey"], key);

    let unlock = |key: &str| client.post("/swarm/unlock", json!({ "UnlockKey": key }));
    assert_eq!(unlock("SWMKEY-1-right").await.status, StatusCode::CONFLICT);
    client.fake.lock_up();
    for path in ["/swarm", "/nodes", "/services", "/tasks", "/swarm/unlockkey"] {
        let reply = client.get(path).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(reply.message().starts_with("Swarm is encrypted and needs to be unlocked"), "{path}");
    }
    assert_eq!(client.get("/info").await.json()["Swarm"]["LocalNodeState"], "locked");
    let reply = unlock("SWMKEY-1-wrong").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.message(), "swarm could not be unlocked: invalid key provided");
    assert_eq!(unlock("SWMKEY-1-right").await.status, StatusCode::OK);
    assert_eq!(client.get("/nodes").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_service_lives_its_life() {
    let client = Client::in_swarm().await;
    let created = client.create(spec("web", "whoami:latest", 2, 8080)).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let id = created.json()["ID"].as_str().unwrap().to_owned();

    // A client sends back what it has read, with a change.
    let mut service = client.get("/services/web?insertDefaults=false").await.json();
    assert_eq!(service["Endpoint"]["Ports"][0]["PublishedPort"], 8080);
    service["Spec"]["Mode"]["Replicated"]["Replicas"] = json!(3);
    let version = service["Version"]["Index"].as_u64().unwrap();
    let update = format!("/services/{id}/update?version={version}");
    let reply = client.post(&update, service["Spec"].clone()).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", String::from_utf8_lossy(&reply.bytes));
    assert_eq!(client.fake.state().tasks.len(), 3, "scaling replaces no task");
    let stale = client.post(&update, service["Spec"].clone()).await;
    assert_eq!(stale.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(stale.message().contains("update out of sequence"));

    let listed = client.get("/services?status=true").await.json();
    assert_eq!(
        listed[0]["ServiceStatus"],
        json!({ "RunningTasks": 3, "DesiredTasks": 3, "CompletedTasks": 0 })
    );
    assert_eq!(client.get("/services").await.json()[0].get("ServiceStatus"), None);

    let service = client.get("/services/web").await.json();
    let mut changed = service["Spec"].clone();
    changed["TaskTemplate"]["ContainerSpec"]["Image"] = json!("whoami:2");
    let update = format!("/services/web/update?version={}", service["Version"]["Index"]);
    assert_eq!(client.post(&update, changed).await.status, StatusCode::OK);
    let filters = |value: &str| {
        format!(
            "/tasks?filters=%7B%22service%22%3A%5B%22web%22%5D%2C%22_up-to-date%22%3A%7B%22{value}%22%3Atrue%7D%7D"
        )
    };
    let current = client.get(&filters("true")).await.json();
    assert_eq!(current.as_array().unwrap().len(), 3);
    assert_eq!(current[0]["Spec"]["ContainerSpec"]["Image"], "whoami:2");
    assert_eq!(current[0]["NetworksAttachments"][0]["Network"]["Spec"]["Name"], "ingress");
    assert_eq!(client.get(&filters("false")).await.json().as_array().unwrap().len(), 3);

    let service = client.get("/services/web").await.json();
    assert_eq!(service["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"], "whoami:latest");
    let back = format!("/services/web/update?rollback=previous&version={}", service["Version"]["Index"]);
    assert_eq!(client.post(&back, service["Spec"].clone()).await.status, StatusCode::OK);
    let service = client.get("/services/web").await.json();
    assert_eq!(service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"], "whoami:latest");
    assert_eq!(service["UpdateStatus"]["State"], "rollback_started");

    let task = current[0]["ID"].as_str().unwrap();
    assert_eq!(client.get(&format!("/tasks/{task}")).await.json()["ServiceID"], json!(id));
    assert_eq!(client.delete("/services/web").await.status, StatusCode::OK);
    assert_eq!(client.get("/services").await.json(), json!([]));
    let gone = client.get("/services/web").await;
    assert_eq!((gone.status.as_u16(), gone.message().as_str()), (404, "service web not found"));
}

#[tokio::test]
async fn bad_services_change_nothing() {
    let client = Client::in_swarm().await;
    assert_eq!(client.create(spec("web", "whoami:latest", 1, 8080)).await.status, StatusCode::CREATED);
    let before = client.fake.state();
    let version = client.get("/services/web").await.json()["Version"]["Index"].clone();
    let update = format!("/services/web/update?version={version}");
    for (path, body, status, words) in [
        ("/services/create", spec("b", "nope:1", 1, 0), 404, "No such image: nope:1 ("),
        (&update, spec("web", "nope:1", 1, 8080), 404, "No such image: nope:1 ("),
        (
            "/services/create",
            spec("b", "whoami:latest", 1, 8080),
            400,
            "port '8080' is already in use by service 'web'",
        ),
        ("/services/create", spec("b", "whoami:latest", -1, 0), 400, "invalid replica count -1"),
        (&update, spec("web", "whoami:latest", -2, 8080), 400, "invalid replica count -2"),
        ("/services/create", spec("web", "whoami:latest", 1, 0), 409, "service web already exists"),
        ("/services/create", spec("b.c", "whoami:latest", 1, 0), 400, "DNS name component"),
        ("/services/create", json!([]), 400, "invalid JSON"),
        (
            "/services/nope/update?version=1",
            spec("nope", "whoami:latest", 1, 0),
            404,
            "service nope not found",
        ),
        ("/services/web/update", spec("web", "whoami:latest", 1, 0), 400, "invalid object version ''"),
        ("/services/web/update?version=1&rollback=x", json!({}), 400, "unrecognized rollback option x"),
    ] {
        let reply = client.post(path, body).await;
        let message = reply.message();
        assert!(message.contains(words), "{path}: {message}");
        assert_eq!(reply.status.as_u16(), status, "{path}: {message}");
        assert!(!message.contains('\n'));
    }
    assert_eq!(client.fake.state(), before);
}

#[tokio::test]
async fn filters_narrow_and_unknown_ones_are_refused() {
    let client = Client::in_swarm().await;
    assert_eq!(client.create(spec("web", "whoami:latest", 1, 0)).await.status, StatusCode::CREATED);
    let count = async |path: &str, filters: &str| {
        let encoded: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
        client.get(&format!("{path}?filters={encoded}")).await.json().as_array().map(Vec::len)
    };
    assert_eq!(count("/services", r#"{"name":["we"]}"#).await, Some(1), "names match by their beginning");
    assert_eq!(count("/services", r#"{"name":{"x":true}}"#).await, Some(0));
    assert_eq!(count("/services", r#"{"mode":["global"]}"#).await, Some(0));
    assert_eq!(count("/nodes", r#"{"role":["manager"]}"#).await, Some(1));
    assert_eq!(count("/tasks", r#"{"node":["self"],"desired-state":["running"]}"#).await, Some(1));
    assert_eq!(count("/tasks", r#"{"desired-state":["shutdown"]}"#).await, Some(0));
    assert_eq!(count("/tasks", r#"{"name":["web.1"]}"#).await, Some(1));
    assert_eq!(count("/networks", r#"{"scope":["swarm"]}"#).await, Some(1));
    let reply = client.get("/services?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D").await;
    assert_eq!((reply.status.as_u16(), reply.message().as_str()), (400, "invalid filter 'colour'"));
    let reply = client.get("/tasks?filters=%7B%22service%22%3A%5B%22nope%22%5D%7D").await;
    assert_eq!((reply.status.as_u16(), reply.message().as_str()), (404, "service nope not found"));
}

#[tokio::test]
async fn nothing_that_only_skep_knows_gets_out() {
    let client = Client::in_swarm().await;
    assert_eq!(client.create(spec("web", "whoami:latest", 1, 8080)).await.status, StatusCode::CREATED);
    for path in ["/swarm", "/info", "/nodes", "/nodes/self", "/services", "/tasks", "/networks"] {
        let text = String::from_utf8(client.get(path).await.bytes).unwrap();
        for name in [
            "SpecVersion",
            "ServiceName",
            "Addresses\":[\"1.",
            "\"Raft\":{\"Id",
            "CaKey",
            "very secret",
            "StartAfter",
        ] {
            assert!(!text.contains(name), "{path} shows {name}: {text}");
        }
    }
    let service = client.get("/services/web").await.json();
    let names: Vec<&String> = service.as_object().unwrap().keys().collect();
    assert_eq!(names, ["CreatedAt", "Endpoint", "ID", "Spec", "UpdatedAt", "Version"]);
}

#[tokio::test]
async fn nodes_and_tokens_change_by_version() {
    let client = Client::in_swarm().await;
    let node = client.get("/nodes/host1").await.json();
    assert_eq!(node["ManagerStatus"]["Reachability"], "reachable");
    let update = format!("/nodes/self/update?version={}", node["Version"]["Index"]);
    let drained = json!({ "Role": "manager", "Availability": "drain", "Labels": { "a": "b" } });
    assert_eq!(client.post(&update, drained.clone()).await.status, StatusCode::OK);
    assert_eq!(client.post(&update, drained).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let node = client.get("/nodes/host1").await.json();
    assert_eq!(node["Spec"]["Availability"], "drain");
    let update = format!("/nodes/host1/update?version={}", node["Version"]["Index"]);
    let reply = client.post(&update, json!({ "Role": "worker", "Availability": "active" })).await;
    assert!(reply.message().contains("attempting to demote the last manager of the swarm"));
    assert!(client.delete("/nodes/host1?force=1").await.message().contains("must be demoted to worker"));

    let swarm = client.get("/swarm").await.json();
    let rotate = format!(
        "/swarm/update?version={}&rotateWorkerToken=true&rotateManagerToken=false",
        swarm["Version"]["Index"]
    );
    assert_eq!(client.post(&rotate, swarm["Spec"].clone()).await.status, StatusCode::OK);
    let after = client.get("/swarm").await.json();
    assert_ne!(after["JoinTokens"]["Worker"], swarm["JoinTokens"]["Worker"]);
    assert_eq!(after["JoinTokens"]["Manager"], swarm["JoinTokens"]["Manager"]);
    assert_eq!(client.post("/swarm/leave?force=1", json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn images_that_are_not_there_and_archives_that_are_none() {
    let client = Client::new();
    let reply = client.get("/images/ex.am/a/b:1/json").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.message().starts_with("No such image: "), "{}", reply.message());
    assert_eq!(client.delete("/images/a/b:1").await.status, StatusCode::NOT_FOUND);
    assert_eq!(client.get("/distribution/a/b:1/json").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        client.post("/images/create?fromImage=x", json!({})).await.status,
        StatusCode::NOT_IMPLEMENTED
    );
    let reply = client.send(Method::POST, "/images/load?quiet=1", Body::from("no tar at all")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(!reply.message().is_empty());
    assert_eq!(client.get("/images/json").await.json(), json!([]));
}

#[tokio::test]
async fn events_answer_at_once_and_stay_open() {
    use http_body_util::BodyExt as _;

    let client = Client::new();
    let request = Request::builder().uri("/v1.50/events").body(Body::empty()).unwrap();
    let response = client.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let next = std::pin::pin!(body.frame());
    assert!(futures_util::poll!(next).is_pending());
}

#[tokio::test]
async fn serving_ends_when_it_is_told_to() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::new(&folder.path().join("store"));
    let path = folder.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(skep_api::serve(fake, vec![skep_api::Listen::Unix(listener)], async move {
        drop(stopped.await)
    }));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /v1.44/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    stop.send(()).unwrap();
    // The open event stream does not hold it up for ever.
    tokio::time::timeout(skep_api::DRAIN_TIME * 5, server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_image_is_loaded_named_shown_and_removed() {
    let client = Client::in_swarm().await;
    let archive = support::archive::image(&["bb:1", "ex.am/le/bb:2"]);
    let reply = client.send(Method::POST, "/images/load?quiet=1", Body::from(archive.clone())).await;
    assert_eq!(
        (reply.status, &reply.headers["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    let lines: Vec<Value> =
        serde_json::Deserializer::from_slice(&reply.bytes).into_iter().map(Result::unwrap).collect();
    assert_eq!(
        lines,
        [json!({ "stream": "Loaded image: bb:1\n" }), json!({ "stream": "Loaded image: ex.am/le/bb:2\n" })]
    );
    let told = client.send(Method::POST, "/images/load?quiet=0", Body::from(archive)).await;
    assert!(String::from_utf8(told.bytes).unwrap().contains("\"status\":\"Loading layer\""));

    let listed = client.get("/images/json").await.json();
    assert_eq!(listed[0]["RepoTags"], json!(["bb:1", "ex.am/le/bb:2"]));
    assert_eq!((&listed[0]["Created"], &listed[0]["Labels"]), (&json!(1_767_323_045), &json!({ "a": "b" })));
    let narrowed = client.get("/images/json?filters=%7B%22reference%22%3A%5B%22bb%22%5D%7D").await.json();
    assert_eq!(narrowed[0]["RepoTags"], json!(["bb:1"]));
    let image = client.get("/images/ex.am/le/bb:2/json").await.json();
    assert_eq!(image["Id"], listed[0]["Id"]);
    assert_eq!(image["Config"]["Healthcheck"]["Test"][0], "NONE", "fields that only Docker knows are kept");
    let history = client.get("/images/bb:1/history").await.json();
    assert_eq!(
        (history[0]["CreatedBy"].as_str(), history[1]["CreatedBy"].as_str()),
        (Some("CMD"), Some("COPY file"))
    );

    assert_eq!(
        client.post("/images/ex.am/le/bb:2/tag?repo=my/x&tag=3", json!({})).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        client.post("/images/bb:1/tag?repo=my/X&tag=3", json!({})).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(client.create(spec("web", "my/x:3", 1, 0)).await.status, StatusCode::CREATED);
    assert_eq!(client.delete("/images/my/x:3").await.json(), json!([{ "Untagged": "my/x:3" }]));
    client.delete("/images/bb:1").await;
    let removed = client.delete("/images/ex.am/le/bb:2").await.json();
    assert_eq!(removed[0], json!({ "Untagged": "ex.am/le/bb:2" }));
    assert_eq!(removed[1], json!({ "Deleted": image["Id"] }));
    assert_eq!(client.get("/images/json").await.json(), json!([]));

    // Its image has gone from every node: what does not touch the image still works.
    let service = client.get("/services/web").await.json();
    let update = format!("/services/web/update?version={}", service["Version"]["Index"]);
    assert_eq!(client.post(&update, service["Spec"].clone()).await.status, StatusCode::OK);
}
