//! The properties, the wire format, and a conversation with a peer that plays systemd.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::bus::Manager;
use super::properties::{Version, bits, for_resources, for_start};
use super::wire::{Call, HEAD, Reply, Value, Writer, length, parse};
use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn text(properties: &[(String, Value)]) -> Vec<String> {
    properties.iter().map(|(name, value)| format!("{name} {} {value:?}", value.signature())).collect()
}

#[test]
fn limits_become_properties_of_each_interface() {
    let json = r#"{"memory":{"limit":1000,"swap":3000,"reservation":500},"pids":{"limit":-1},
        "cpu":{"shares":1024,"quota":1234,"period":50000,"cpus":"0-1,9"},"blockIO":{"weight":10}}"#;
    let v2 = for_resources(&resources(json), Version { number: 252, v2: true }, false).unwrap();
    let expected = [
        "MemoryMax t U64(1000)",
        "MemoryLow t U64(500)",
        "MemorySwapMax t U64(2000)",
        "TasksMax t U64(18446744073709551615)",
        "CPUWeight t U64(100)",
        "CPUQuotaPeriodUSec t U64(50000)",
        "CPUQuotaPerSecUSec t U64(30000)",
        "AllowedCPUs ay Bytes([3, 2])",
    ];
    assert_eq!(text(&v2), expected);
    let v1 = for_resources(&resources(json), Version { number: 241, v2: false }, false).unwrap();
    let expected = [
        "MemoryLimit t U64(1000)",
        "BlockIOWeight t U64(10)",
        "TasksMax t U64(18446744073709551615)",
        "CPUShares t U64(1024)",
        "CPUQuotaPerSecUSec t U64(30000)",
    ];
    assert_eq!(text(&v1), expected);
    for list in ["1-0", "x", ",", "0-99999999"] {
        assert_eq!(bits(list), None, "{list}");
    }
}

#[test]
fn what_unified_says_becomes_properties_where_there_are_any() {
    let json = r#"{"unified":{"memory.max":"max","memory.min":"131072","memory.swap.max":" 7\n","pids.max":"0",
        "cpu.max":"10000 100000","cpu.weight":"42","cpuset.cpus":"0,9","memory.low":"what","hugetlb.2MB.max":"1"}}"#;
    let version = Version { number: 252, v2: true };
    let expected = [
        "CPUQuotaPeriodUSec t U64(100000)",
        "CPUQuotaPerSecUSec t U64(100000)",
        "CPUWeight t U64(42)",
        "AllowedCPUs ay Bytes([1, 2])",
        "MemoryMax t U64(18446744073709551615)",
        "MemoryMin t U64(131072)",
        "MemorySwapMax t U64(7)",
        "TasksMax t U64(1)",
    ];
    assert_eq!(text(&for_resources(&resources(json), version, false).unwrap()), expected);
    let json = r#"{"unified":{"cpu.max":"max","cpu.idle":"1","cpu.weight":"42"}}"#;
    let expected = [
        "CPUWeight t U64(0)",
        "CPUQuotaPeriodUSec t U64(100000)",
        "CPUQuotaPerSecUSec t U64(18446744073709551615)",
    ];
    assert_eq!(text(&for_resources(&resources(json), version, false).unwrap()), expected);
    let old = Version { number: 241, v2: true };
    let expected = ["CPUQuotaPerSecUSec t U64(18446744073709551615)", "CPUWeight t U64(42)"];
    assert_eq!(text(&for_resources(&resources(json), old, false).unwrap()), expected);
    assert_eq!(for_resources(&resources(json), Version { number: 252, v2: false }, false).unwrap(), []);
}

#[test]
fn devices_become_a_strict_list() {
    let json =
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"access":"r"}]}"#;
    let properties = for_resources(&resources(json), Version { number: 252, v2: true }, true).unwrap();
    assert_eq!(properties[0], ("DeviceAllow".to_owned(), Value::Pairs(Vec::new())));
    assert_eq!(properties[1], ("DevicePolicy".to_owned(), Value::Text("strict".to_owned())));
    let Value::Pairs(pairs) = &properties[2].1 else { panic!("{properties:?}") };
    for (device, rights) in [("char-*", "m"), ("block-8", "r"), ("/dev/char/1:3", "rwm"), ("char-136", "rwm")]
    {
        assert!(pairs.contains(&(device.to_owned(), rights.to_owned())), "{device} {pairs:?}");
    }
    let all = r#"{"devices":[{"allow":true,"access":"rwm"}]}"#;
    let properties = for_resources(&resources(all), Version { number: 252, v2: true }, true).unwrap();
    assert_eq!(properties[1].1, Value::Text("auto".to_owned()));
}

#[test]
fn scopes_hold_processes_and_slices_do_not() {
    let scope = text(&for_start("a-b.scope", "x.slice", &[7], true));
    assert!(scope.contains(&"Slice s Text(\"x.slice\")".to_owned()), "{scope:?}");
    assert!(scope.contains(&"PIDs au U32s([7])".to_owned()));
    assert!(scope.contains(&"Delegate b Bool(true)".to_owned()));
    let slice = text(&for_start("a.slice", "x.slice", &[7], true));
    assert!(slice.contains(&"Wants as Texts([\"x.slice\"])".to_owned()), "{slice:?}");
    assert!(!slice.iter().any(|line| line.starts_with("PIDs")));
}

#[test]
fn annotations_become_properties() {
    for (name, value, expected) in [
        ("TimeoutStopUSec", "uint64 123", ("TimeoutStopUSec", Value::U64(123))),
        ("TimeoutStopSec", "5", ("TimeoutStopUSec", Value::U64(5_000_000))),
        ("TimeoutStopSec", "1.5", ("TimeoutStopUSec", Value::U64(1_500_000))),
        (
            "CollectMode",
            "'inactive-or-failed'",
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ),
        ("After", "['a', 'b']", ("After", Value::Texts(vec!["a".to_owned(), "b".to_owned()]))),
        ("Delegate", "true", ("Delegate", Value::Bool(true))),
    ] {
        assert_eq!(variant::property(name, value), Ok((expected.0.to_owned(), expected.1)), "{name}");
    }
    for (name, value) in [("ab", "1"), ("Foo1", "1"), ("Foo", "what"), ("FooSec", "'x'"), ("FooSec", "-1")] {
        assert!(variant::property(name, value).is_err(), "{name}={value}");
    }
}

#[test]
fn a_message_is_as_the_specification_lays_it_out() {
    if cfg!(target_endian = "big") {
        return;
    }
    let mut body = Writer::default();
    body.text("a");
    body.properties(&[("P".to_owned(), Value::U64(1))]);
    let call = Call { destination: "", path: "/o", interface: "", member: "M", signature: "sa(sv)" };
    let message = call.message(5, body);
    let expected = [
        &b"l\x01\x00\x01\x28\x00\x00\x00\x05\x00\x00\x00\x2c\x00\x00\x00"[..],
        b"\x01\x01o\x00\x02\x00\x00\x00/o\x00\x00\x00\x00\x00\x00",
        b"\x03\x01s\x00\x01\x00\x00\x00M\x00\x00\x00\x00\x00\x00\x00",
        b"\x08\x01g\x00\x06sa(sv)\x00\x00\x00\x00\x00",
        b"\x01\x00\x00\x00a\x00\x00\x00\x18\x00\x00\x00\x00\x00\x00\x00",
        b"\x01\x00\x00\x00P\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x00\x00\x00\x00",
    ]
    .concat();
    assert_eq!(message, expected);
    assert_eq!(length(message[..HEAD].try_into().unwrap()), Some(message.len()));
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_received_can_make_the_parser_panic(bytes in proptest::collection::vec(0..40_u8, 0..120)) {
        let _ = parse(&bytes);
    }
}

/// Plays systemd on the other end: refuses the first start because a failed unit is there, and ends jobs at once.
fn peer(mut stream: UnixStream) -> Vec<String> {
    // As systemd reads it: all that is there at once. A call must not come in the same read as the BEGIN before it.
    let mut introduction = [0; 256];
    let length_read = stream.read(&mut introduction).unwrap();
    let introduction = &introduction[..length_read];
    assert!(introduction.starts_with(b"\0AUTH EXTERNAL ") && introduction.ends_with(b"\r\nBEGIN\r\n"));
    stream.write_all(b"OK 1234\r\n").unwrap();
    let mut calls = Vec::new();
    let mut head = [0; HEAD];
    while stream.read_exact(&mut head).is_ok() {
        let mut message = head.to_vec();
        message.resize(length(&head).unwrap(), 0);
        stream.read_exact(&mut message[HEAD..]).unwrap();
        let serial = u32::from_ne_bytes(message[8..12].try_into().unwrap());
        let bytes = String::from_utf8_lossy(&message).into_owned();
        let methods =
            ["Subscribe", "StartTransientUnit", "StopUnit", "ResetFailedUnit", "SetUnitProperties", "Get"];
        let method = methods.into_iter().find(|name| bytes.contains(&format!("{name}\0"))).unwrap();
        let first = method == "StartTransientUnit" && !calls.iter().any(|call| call == method);
        calls.push(method.to_owned());
        let answer = match method {
            "StartTransientUnit" if first => wire::tests_answer(3, serial, "UnitExists", &["it is there"]),
            "StartTransientUnit" | "StopUnit" => {
                // The signal may come before the answer.
                let mut both = wire::tests_answer(4, 0, "JobRemoved", &["/job/1", "u.scope", "done"]);
                both.extend(wire::tests_answer(2, serial, "", &["/job/1"]));
                both
            }
            "Get" => wire::tests_answer(2, serial, "", &["252.39-1"]),
            _ => wire::tests_answer(2, serial, "", &[]),
        };
        stream.write_all(&answer).unwrap();
    }
    calls
}

#[test]
fn a_unit_is_started_changed_and_stopped() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let systemd = std::thread::spawn(|| peer(theirs));
    let mut manager = Manager::over(ours, "").unwrap();
    assert_eq!(manager.version().unwrap(), 252);
    manager.start("u.scope", &for_start("u.scope", "x.slice", &[1], true)).unwrap();
    manager.set("u.scope", &[("MemoryMax".to_owned(), Value::U64(1))]).unwrap();
    manager.stop("u.scope").unwrap();
    drop(manager);
    let expected = [
        "Subscribe",
        "Get",
        "StartTransientUnit",
        "ResetFailedUnit",
        "StartTransientUnit",
        "SetUnitProperties",
        "StopUnit",
        "ResetFailedUnit",
    ];
    assert_eq!(systemd.join().unwrap(), expected);
}

#[test]
fn a_malformed_answer_is_an_error_not_a_panic() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"OK 1\r\nthis is no message of D-Bus").unwrap();
    assert!(Manager::over(ours, "").is_err());
}

#[test]
fn replies_are_understood() {
    let refusal = parse(&wire::tests_answer(3, 9, "NoSuchUnit", &["why"]));
    let name = "org.freedesktop.systemd1.NoSuchUnit".to_owned();
    assert_eq!(refusal, Some(Reply::Error { to: 9, name, text: "why".to_owned() }));
}

#[test]
fn without_systemd_the_driver_says_so() {
    if Path::new("/run/systemd/system").exists() {
        return;
    }
    let error = Manager::connect().unwrap_err().to_string();
    assert_eq!(error, "systemd is not running (/run/systemd/system is missing)");
}
