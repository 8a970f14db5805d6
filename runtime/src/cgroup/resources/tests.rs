//! What the spec's resources become.

use oci_spec::runtime::LinuxResources;

use super::*;
use crate::cgroup::CgroupError;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn lines(writes: Result<Vec<Write>, CgroupError>) -> Vec<String> {
    let line =
        |write: Write| format!("{}={}{}", write.file, write.value, if write.optional { "?" } else { "" });
    writes.unwrap().into_iter().map(line).collect()
}

fn on_v1(family: Family, json: &str) -> Vec<String> {
    lines(v1::writes(family, &resources(json), &|_| false))
}

fn on_v2(family: Family, json: &str) -> Vec<String> {
    lines(v2::writes(family, &resources(json), &|_| None))
}

#[test]
fn memory() {
    let json = r#"{"memory":{"limit":1000,"swap":3000,"reservation":500,"kernel":5,"kernelTCP":5}}"#;
    let v1 =
        ["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=3000", "memory.soft_limit_in_bytes=500"];
    assert_eq!(on_v1(Family::Memory, json), v1);
    assert_eq!(on_v2(Family::Memory, json), ["memory.swap.max=2000", "memory.max=1000", "memory.low=500"]);
    let json = r#"{"memory":{"limit":-1}}"#;
    assert_eq!(on_v1(Family::Memory, json), ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1?"]);
    assert_eq!(on_v2(Family::Memory, json), ["memory.swap.max=max?", "memory.max=max"]);
    let json =
        r#"{"memory":{"limit":7,"swap":7,"swappiness":60,"disableOOMKiller":true,"useHierarchy":true}}"#;
    let v1 = [
        "memory.use_hierarchy=1?",
        "memory.limit_in_bytes=7",
        "memory.memsw.limit_in_bytes=7",
        "memory.oom_control=1",
        "memory.swappiness=60",
    ];
    assert_eq!(on_v1(Family::Memory, json), v1);
    assert_eq!(
        on_v2(Family::Memory, r#"{"memory":{"limit":7,"swap":7}}"#),
        ["memory.swap.max=0?", "memory.max=7"]
    );
}

#[test]
fn what_v2_lacks_or_cannot_be_is_refused_by_name() {
    for (family, json, name) in [
        (Family::Memory, r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
        (Family::Memory, r#"{"memory":{"swappiness":1}}"#, "memory.swappiness"),
        (Family::Memory, r#"{"memory":{"swap":10}}"#, "memory.swap"),
        (Family::Memory, r#"{"memory":{"swap":10,"limit":11}}"#, "memory.swap"),
        (Family::Cpu, r#"{"cpu":{"realtimeRuntime":1}}"#, "cpu.realtimeRuntime"),
        (Family::BlockIo, r#"{"blockIO":{"leafWeight":10}}"#, "blockIO.leafWeight"),
    ] {
        let error = v2::writes(family, &resources(json), &|_| None).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let error = v1::writes(Family::Memory, &resources(r#"{"memory":{"swappiness":101}}"#), &|_| false);
    assert!(error.unwrap_err().to_string().contains("memory.swappiness"));
    let error = v1::writes(Family::Cpu, &resources(r#"{"cpu":{"shares":1}}"#), &|_| false);
    assert!(error.unwrap_err().to_string().contains("cpu.shares"));
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_before_the_kernel_kills_for_it() {
    let read = |file: &str| (file == "memory.current").then(|| "1000\n".to_owned());
    let json = |limit| resources(&format!(r#"{{"memory":{{"limit":{limit},"checkBeforeUpdate":true}}}}"#));
    let low = v2::writes(Family::Memory, &json(1000), &read);
    assert!(matches!(low, Err(CgroupError::TooLow { limit: 1000, usage: 1000 })));
    assert!(v2::writes(Family::Memory, &json(1001), &read).is_ok());
}

#[test]
fn cpu() {
    let json = r#"{"cpu":{"shares":1024,"quota":5000,"period":10000,"burst":100,"idle":0}}"#;
    let v1 = [
        "cpu.shares=1024",
        "cpu.cfs_period_us=10000",
        "cpu.cfs_burst_us=100",
        "cpu.cfs_quota_us=5000",
        "cpu.idle=0",
    ];
    assert_eq!(on_v1(Family::Cpu, json), v1);
    assert_eq!(
        on_v2(Family::Cpu, json),
        ["cpu.idle=0", "cpu.weight=100", "cpu.max.burst=100", "cpu.max=5000 10000"]
    );
    assert_eq!(on_v2(Family::Cpu, r#"{"cpu":{"quota":-1}}"#), ["cpu.max=max 100000"]);
    let read = |file: &str| (file == "cpu.max").then(|| "7000 20000\n".to_owned());
    for (json, expected) in [
        (r#"{"cpu":{"quota":9000}}"#, "cpu.max=9000 20000"),
        (r#"{"cpu":{"period":40000}}"#, "cpu.max=7000 40000"),
    ] {
        assert_eq!(lines(v2::writes(Family::Cpu, &resources(json), &read)), [expected]);
    }
    let json = r#"{"cpu":{"realtimeRuntime":9,"realtimePeriod":10}}"#;
    assert_eq!(on_v1(Family::Cpu, json), ["cpu.rt_period_us=10", "cpu.rt_runtime_us=9"]);
}

#[test]
fn shares_become_weights_on_runcs_curve() {
    let points = [(2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_143, 10_000), (1 << 20, 10_000)];
    for (shares, weight) in points {
        assert_eq!(v2::weight(shares), weight, "{shares}");
    }
}

#[test]
fn pids_and_cpusets() {
    for (limit, value) in [(-1, "max"), (0, "1"), (7, "7")] {
        let json = format!(r#"{{"pids":{{"limit":{limit}}}}}"#);
        assert_eq!(on_v1(Family::Pids, &json), [format!("pids.max={value}")]);
        assert_eq!(on_v2(Family::Pids, &json), [format!("pids.max={value}")]);
    }
    let json = r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#;
    assert_eq!(on_v1(Family::Cpuset, json), ["cpuset.cpus=0-1", "cpuset.mems=0"]);
}

#[test]
fn block_io() {
    let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":300}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":100}],
        "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}"#;
    let throttled = ["blkio.throttle.read_bps_device=8:0 100", "blkio.throttle.write_iops_device=8:1 0"];
    let bfq = ["blkio.bfq.weight=500", "blkio.bfq.weight_device=8:0 300"];
    assert_eq!(on_v1(Family::BlockIo, json), [&bfq[..], &throttled].concat());
    let old = lines(v1::writes(Family::BlockIo, &resources(json), &|file| file == "blkio.weight"));
    assert_eq!(old[..2], ["blkio.weight=500", "blkio.weight_device=8:0 300"]);
    let max = ["io.max=8:0 rbps=100", "io.max=8:1 wiops=max"];
    assert_eq!(on_v2(Family::BlockIo, json), [&["io.weight=4950", "io.weight=8:0 2930"], &max[..]].concat());
    let bfq =
        v2::writes(Family::BlockIo, &resources(json), &|file| (file == "io.bfq.weight").then(String::new));
    assert_eq!(lines(bfq)[..2], ["io.bfq.weight=500", "io.bfq.weight=8:0 300"]);
}

#[test]
fn the_rest() {
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9}],
        "network":{"classID":1048577,"priorities":[{"name":"lo","priority":3}]},
        "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":4},"mlx4_0":{"hcaObjects":5}}}"#;
    let v1 = ["hugetlb.2MB.limit_in_bytes=9", "hugetlb.2MB.rsvd.limit_in_bytes=9?"];
    assert_eq!(on_v1(Family::Hugetlb, json), v1);
    assert_eq!(on_v2(Family::Hugetlb, json), ["hugetlb.2MB.max=9", "hugetlb.2MB.rsvd.max=9?"]);
    assert_eq!(on_v1(Family::NetCls, json), ["net_cls.classid=1048577"]);
    assert_eq!(on_v1(Family::NetPrio, json), ["net_prio.ifpriomap=lo 3"]);
    let rdma = ["rdma.max=mlx4_0 hca_object=5", "rdma.max=mlx5_1 hca_handle=3 hca_object=4"];
    assert_eq!(on_v1(Family::Rdma, json), rdma);
}

#[test]
fn unified_is_written_line_by_line_and_names_files_only() {
    let json = r#"{"unified":{"io.max":"8:0 rbps=1\n8:1 rbps=2","cpu.weight":"5"}}"#;
    let expected = ["cpu.weight=5", "io.max=8:0 rbps=1", "io.max=8:1 rbps=2"];
    assert_eq!(lines(v2::unified(&resources(json))), expected);
    for name in ["../cpu.max", "cpu", ".max", "cpu."] {
        let error = v2::unified(&resources(&format!(r#"{{"unified":{{"{name}":"1"}}}}"#)));
        assert!(matches!(error, Err(CgroupError::UnifiedName { .. })), "{name}");
    }
}

#[test]
fn zeros_need_no_controller() {
    let json = r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"cpus":""},
        "blockIO":{"weight":0,"weightDevice":[]},"network":{"classID":0},"pids":{"limit":-1}}"#;
    for family in Family::ALL {
        assert!(!needs(family, &resources(json)), "{family:?}");
    }
}
