# Every command a contributor runs. `just` lists them. Building, testing and running need root and Rust alone; what a
# recipe needs beyond that stands above it.

release := "target/" + arch() + "-unknown-linux-gnu/release/skep"

# list the recipes
default:
    @just --list --unsorted

# build the program for every day (target/…/debug/skep)
build:
    cargo build --workspace

# build the program to ship (target/…/release/skep)
release:
    cargo build --release -p skep

# run all tests that need root and the toolchain alone
test:
    cargo test --workspace

# formatting and clippy, as CI judges them; changes nothing
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# licences, banned crates and sources of all dependencies; needs cargo-deny
deny:
    cargo fetch --locked --quiet
    cargo deny --offline check --hide-inclusion-graph licenses bans sources

# known security faults of the dependencies; needs cargo-deny and the network, for the database
advisories:
    cargo deny check --hide-inclusion-graph advisories

# show the main job: a service that answers on every node and outlives its leader
demo:
    cargo run --release -- playground demo

# five managers, two killed again and again, for so many seconds: what clients see must be linearizable
linearizability SECONDS="600":
    SKEP_LINEARIZABILITY_SECONDS={{ SECONDS }} cargo test -p skep --test linearizability -- --nocapture

# nginx, redis and dnsmasq on three nodes, a CA of somebody else's, every command of swarm and node by both programs; needs docker (the client), curl, umoci, skopeo, redis-tools, bind9-dnsutils, golang-cfssl, openssl, procps, python3
real: release
    SKEP={{ release }} tests/real/run.sh target/real-images
    SKEP={{ release }} tests/real/cfssl.sh
    SKEP={{ release }} tests/real/commands.py

# every attack on the runtime twice: it must fail, and succeed on a build without the defence; races of so many rounds
attacks ROUNDS="10000":
    cargo build -p skep-runtime-cli --features weakened
    mkdir -p target/weakened
    cp target/{{ arch() }}-unknown-linux-gnu/debug/skep-runtime target/weakened/skep-runtime
    SKEP_RUNTIME_WEAKENED=$PWD/target/weakened/skep-runtime SKEP_ATTACK_ROUNDS={{ ROUNDS }} cargo test -p skep-runtime-cli --test attacks

# a node on two of Debian's kernels and pure cgroup v2, emulated; needs qemu-system-x86, busybox-static
vm: release
    SKEP={{ release }} vm-images/node.sh target/vm linux-image-cloud-amd64 linux-image-6.12-cloud-amd64

# the runtime's tests on the same kernels, each kernel=cgroup-modes; `-- FILTER` picks tests; needs what `vm` needs
vm-runtime *KERNELS="linux-image-cloud-amd64=v2,hybrid,v1 linux-image-6.12-cloud-amd64=v2,hybrid":
    vm-images/runtime.sh target/vm {{ KERNELS }}

# our figures beside Docker's, in one run; needs what `real` needs and docker.io (dockerd)
bench *WHAT: release
    tests/real/images.sh target/real-images
    SKEP={{ release }} tests/bench/run.sh {{ WHAT }}

# repair what can be repaired by itself: formatting and clippy's suggestions
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

# what strangers can send is decoded without a panic: each fuzz target for so many seconds; needs cargo-fuzz and a C++ compiler
fuzz SECONDS="10":
    #!/bin/bash
    set -euo pipefail
    cd swarm/mesh
    # Sanitizers are not stable yet, and this repository needs no other toolchain than the stable one.
    export RUSTC_BOOTSTRAP=1
    for target in $(cargo fuzz list); do
        cargo fuzz run --target {{ arch() }}-unknown-linux-gnu "$target" -- -max_total_time={{ SECONDS }} -max_len=16384 -verbosity=0
    done
