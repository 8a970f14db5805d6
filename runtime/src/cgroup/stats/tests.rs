//! The kernel's files read, and the JSON.

use super::*;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

#[test]
fn v2_files_become_v1s_terms() {
    let group = directory(&[
        ("memory.current", "1000\n"),
        ("memory.max", "max\n"),
        ("memory.peak", "1500\n"),
        ("memory.swap.current", "10\n"),
        ("memory.swap.max", "max\n"),
        ("memory.stat", "anon 5\nfile 7\n"),
        (
            "memory.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
        ),
        (
            "cpu.stat",
            "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 2\nnr_throttled 1\nthrottled_usec 5\n",
        ),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0\n"),
    ]);
    let mut stats = Stats::default();
    v2::read(group.path(), &mut stats).unwrap();
    let json = serde_json::to_value(&stats).unwrap();
    let expected = serde_json::json!({
        "cpu": {"usage": {"total": 30000, "kernel": 20000, "user": 10000},
            "throttling": {"periods": 2, "throttledPeriods": 1, "throttledTime": 5000}},
        "cpuset": {"cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
            "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0,
            "sched_relax_domain_level": 0},
        "memory": {"cache": 7, "usage": {"limit": u64::MAX, "usage": 1000, "max": 1500, "failcnt": 0},
            "swap": {"limit": u64::MAX, "usage": 1010, "failcnt": 0}, "raw": {"anon": 5, "file": 7},
            "psi": {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 9},
                "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 4}}},
        "pids": {"current": 3},
        "blkio": {
            "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2}],
            "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 3}, {"major": 8, "op": "Write", "value": 4}]},
        "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null,
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<Stats>(json).unwrap(), stats);
}

#[test]
fn v1_block_io_takes_the_first_family_with_numbers() {
    let group = directory(&[
        ("blkio.bfq.io_serviced_recursive", ""),
        ("blkio.throttle.io_serviced_recursive", "8:0 Read 5\n8:0 Total 5\nTotal 5\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 512\nTotal 512\n"),
    ]);
    let mut stats = Stats::default();
    v1::read("blkio", group.path(), &mut stats).unwrap();
    assert_eq!(stats.blkio.io_serviced_recursive.len(), 2);
    assert_eq!(stats.blkio.io_service_bytes_recursive[0].value, 512);
}

#[test]
fn v1_cpus_are_told_apart() {
    let group = directory(&[
        ("cpuacct.usage", "70\n"),
        ("cpuacct.stat", "user 1\nsystem 2\n"),
        ("cpuacct.usage_percpu", "30 40 \n"),
        ("cpuacct.usage_all", "cpu user system\n0 10 20\n1 15 25\n"),
    ]);
    let mut stats = Stats::default();
    v1::read("cpuacct", group.path(), &mut stats).unwrap();
    let usage = stats.cpu.usage;
    assert_eq!((usage.total, usage.user, usage.kernel), (70, 10_000_000, 20_000_000));
    assert_eq!(
        (usage.percpu, usage.percpu_user, usage.percpu_kernel),
        (vec![30, 40], vec![10, 15], vec![20, 25])
    );
}
