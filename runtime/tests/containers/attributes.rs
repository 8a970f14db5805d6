//! What a container's process is: its scheduling, memory, keyring, limits and environment, seen from inside.
#![allow(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::json;
use skep_runtime::keeper::RefusalKind;
use skep_runtime::spec::oci::Spec;

use super::cases::{Case, refusal};
use super::house::House;

pub(crate) const CASES: &[Case] = &[
    ("attributes_are_what_the_spec_says", attributes_are_what_the_spec_says),
    ("without_a_word_in_the_spec_attributes_are_the_kernels", defaults),
    ("what_cannot_be_is_refused_by_name", what_cannot_be_is_refused_by_name),
    ("the_session_keyring_is_the_containers", the_session_keyring_is_the_containers),
    ("home_comes_from_the_containers_own_passwd", home_comes_from_the_containers_own_passwd),
    ("a_passwd_that_is_a_pipe_is_none", a_passwd_that_is_a_pipe_is_none),
    ("a_working_directory_that_only_root_reaches", a_working_directory_that_only_root_reaches),
    ("sysctls_and_names_of_the_containers_own", sysctls_and_names_of_the_containers_own),
];

/// Seen by the probe inside.
pub(crate) fn report() -> BTreeMap<String, String> {
    let mut report = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(report.insert(key.to_owned(), value));
    // SAFETY: numbers, and pointers to locals that live through the calls with their true sizes.
    unsafe {
        put("policy", libc::sched_getscheduler(0).to_string());
        let mut param: libc::sched_param = std::mem::zeroed();
        libc::sched_getparam(0, &raw mut param);
        put("priority", param.sched_priority.to_string());
        put("nice", libc::getpriority(libc::PRIO_PROCESS, 0).to_string());
        put("ioprio", format!("{:#x}", libc::syscall(libc::SYS_ioprio_get, 1, 0)));
        put("personality", format!("{:#x}", libc::personality(0xffff_ffff)));
        let (mut mode, mut nodes) = (0_i32, [0_u64; 16]);
        let bits = size_of_val(&nodes) * 8;
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), bits, 0, 0);
        put("mempolicy", format!("{mode:#x} {:#x}", nodes[0]));
        // KEYCTL_DESCRIBE of KEY_SPEC_SESSION_KEYRING.
        let mut text = [0_u8; 512];
        let length = libc::syscall(libc::SYS_keyctl, 6, -3, text.as_mut_ptr(), text.len());
        let text = text.get(..usize::try_from(length - 1).unwrap_or(0)).unwrap_or_default();
        put("keyring", String::from_utf8_lossy(text).into_owned());
    }
    put("oom", std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().to_owned());
    put(
        "cwd",
        std::env::current_dir().map_or_else(|error| error.to_string(), |cwd| cwd.display().to_string()),
    );
    put("env", std::env::vars().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "));
    for name in ["hostname", "domainname", "shm_rmid_forced"] {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        put(name, text.trim().to_owned());
    }
    for line in std::fs::read_to_string("/proc/self/status").unwrap().lines() {
        if let Some((key @ ("Cpus_allowed_list" | "Umask" | "Groups"), value)) = line.split_once(':') {
            put(key, value.trim().to_owned());
        }
    }
    report
}

fn look(house: &House, id: &str, change: impl FnOnce(&mut Spec)) -> BTreeMap<String, String> {
    let (exit, output) = house.run(id, &["attributes"], change);
    assert_eq!(exit.code(), 0, "{output} {}", house.output(id, "stderr"));
    serde_json::from_str(&output).unwrap()
}

/// Sets members of the process, or of `linux`, in the way of a config.
fn with(part: &'static str, members: serde_json::Value) -> impl FnOnce(&mut Spec) {
    move |spec: &mut Spec| {
        let mut value = serde_json::to_value(&*spec).unwrap();
        for (key, member) in members.as_object().unwrap() {
            let at = if part.is_empty() { &mut value } else { &mut value[part] };
            at[key] = member.clone();
        }
        *spec = serde_json::from_value(value).unwrap();
    }
}

fn attributes_are_what_the_spec_says() {
    let house = House::new();
    // Real-time policies need a share of real time in the container's group, where the kernel has such shares.
    let seen = look(&house, "b", with("process", json!({"scheduler": {"policy": "SCHED_IDLE"}})));
    assert_eq!((seen["policy"].as_str(), seen["priority"].as_str()), ("5", "0"));
    house.close();
}

fn defaults() {
    let house = House::new();
    let seen = look(&house, "a", |_| {});
    let expected =
        [("policy", "0"), ("nice", "0"), ("personality", "0x0"), ("mempolicy", "0x0 0x0"), ("Umask", "0022")];
    for (key, value) in expected {
        assert_eq!(seen[key], value, "{key}");
    }
    let mine = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(seen["oom"], mine.trim(), "unset is not zero");
    house.close();
}

fn what_cannot_be_is_refused_by_name() {
    let house = House::new();
    let limit = |name: &str, value: u64| json!({"type": name, "hard": value, "soft": value});
    let listener = json!({"seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/nowhere",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }});
    let cases = [
        // Nothing of it is kept for the next time.
        ("linux", listener.clone(), "listenerPath"),
        ("linux", listener, "listenerPath"),
        ("process", json!({"oomScoreAdj": 1001}), "oomScoreAdj"),
        ("process", json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 8}}), "ioPriority"),
        ("process", json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}), "scheduler.nice"),
        ("process", json!({"rlimits": [limit("RLIMIT_CORE", 1), limit("RLIMIT_CORE", 1)]}), "RLIMIT_CORE"),
        ("process", json!({"env": ["NOTHING"]}), "NOTHING"),
        ("process", json!({"cwd": "there"}), "working directory"),
        ("process", json!({"args": []}), "command"),
        ("linux", json!({"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}), "memoryPolicy"),
        ("linux", json!({"personality": {"domain": "LINUX", "flags": ["X"]}}), "personality"),
        ("linux", json!({"sysctl": {"kernel.core_pattern": "x"}}), "kernel.core_pattern"),
        ("linux", json!({"sysctl": {"kernel.hostname": "x"}}), "kernel.hostname"),
        ("linux", json!({"netDevices": {"no/name": {}}}), "netDevices"),
    ];
    let mut labels = Vec::new();
    if !skep_runtime::features::apparmor_enabled() {
        labels.push(("process", json!({"apparmorProfile": "p"}), "no AppArmor"));
    }
    if !skep_runtime::features::selinux_enabled() {
        labels.push(("process", json!({"selinuxLabel": "l"}), "no SELinux"));
        labels.push(("linux", json!({"mountLabel": "l"}), "no SELinux"));
    }
    if skep_runtime::features::resctrl_root().is_none() {
        labels.push(("linux", json!({"intelRdt": {"closID": "a"}}), "no mounted resctrl"));
    }
    for (part, members, word) in cases.into_iter().chain(labels) {
        let request = house.request("a", &["exit", "0"], with(part, members));
        let (kind, text) = refusal(house.client.create(&request, None));
        assert!(kind == RefusalKind::Invalid && text.contains(word), "{kind:?} {text}");
    }
    // What the kernel refuses is named with its value.
    let sched = json!({"scheduler": {"policy": "SCHED_FIFO", "priority": 100}});
    let device = json!({"netDevices": {"skepnodev0": {}}});
    let kernel = [
        ("process", sched, "SCHED_FIFO with priority 100"),
        ("process", json!({"rlimits": [limit("RLIMIT_NOFILE", 1 << 40)]}), "RLIMIT_NOFILE to 1099511627776"),
        ("linux", device, "network device skepnodev0"),
    ];
    for (part, members, word) in kernel {
        let request = house.request("a", &["exit", "0"], with(part, members));
        let (kind, text) = refusal(house.client.create(&request, None));
        assert!(kind == RefusalKind::Failed && text.contains(word), "{kind:?} {text}");
    }
    house.close();
}

fn the_session_keyring_is_the_containers() {
    let house = House::new();
    let seen = look(&house, "ring", with("process", json!({"user": {"uid": 0, "gid": 0}})));
    let fields: Vec<&str> = seen["keyring"].split(';').collect();
    assert_eq!((fields[0], fields[4]), ("keyring", "_ses.ring"), "{}", seen["keyring"]);
    let permissions = u32::from_str_radix(fields[3], 16).unwrap();
    assert_ne!(permissions & 0x8_0000, 0, "the owner searches it: {permissions:x}");
    house.close();
}

fn home_comes_from_the_containers_own_passwd() {
    let house = House::new();
    let home = |id: &str, members| {
        let seen = look(&house, id, with("process", members));
        let found = seen["env"].split(' ').filter_map(|variable| variable.strip_prefix("HOME="));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(home("a", json!({"env": ["A=1"]})), ["/root"]);
    assert_eq!(home("b", json!({"env": ["HOME=/x", "HOME="]})), ["/root"], "an empty one is none");
    assert_eq!(home("c", json!({"env": ["HOME=/x", "HOME=/y"]})), ["/y"]);
    assert_eq!(home("d", json!({"user": {"uid": 77, "gid": 0}})), ["/"]);
    house.close();
}

fn a_passwd_that_is_a_pipe_is_none() {
    let house = House::new();
    let request = house.request("a", &["attributes"], |_| {});
    let etc = request.bundle.join("upper/etc");
    std::fs::create_dir(&etc).unwrap();
    // Opened for reading it would wait for a writer.
    nix::unistd::mkfifo(&etc.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    house.client.create(&request, None).unwrap();
    assert_eq!(house.wait_exit("a").code(), 0);
    let seen: BTreeMap<String, String> = serde_json::from_str(&house.output("a", "stdout")).unwrap();
    assert!(seen["env"].ends_with(" HOME=/"), "{}", seen["env"]);
    house.close();
}

fn a_working_directory_that_only_root_reaches() {
    let house = House::new();
    let closed = house.dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let seen = look(&house, "a", |spec| {
        with("process", json!({"cwd": "/closed", "user": {"uid": 1000, "gid": 1000}}))(spec);
        let mut mounts = serde_json::to_value(spec.mounts()).unwrap();
        let mount = json!({"destination": "/closed", "type": "bind", "source": closed, "options": ["bind"]});
        mounts.as_array_mut().unwrap().push(mount);
        with("", json!({ "mounts": mounts }))(spec);
    });
    assert_eq!(seen["cwd"], "/closed");
    house.close();
}

fn sysctls_and_names_of_the_containers_own() {
    let house = House::new();
    let host = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    let seen = look(&house, "a", |spec| {
        with("", json!({"hostname": "hive", "domainname": "bees"}))(spec);
        with("linux", json!({"sysctl": {"kernel.shm_rmid_forced": "1", "net/ipv4/ip_forward": "1"}}))(spec);
    });
    assert_eq!((seen["hostname"].as_str(), seen["domainname"].as_str()), ("hive", "bees"));
    assert_eq!(seen["shm_rmid_forced"], "1");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), host);
    let seen = look(&house, "b", with("linux", json!({"sysctl": {"kernel.domainname": "combs"}})));
    assert_eq!(seen["domainname"], "combs");
    house.close();
}
