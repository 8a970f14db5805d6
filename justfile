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
    SKEP_LINEARIZABILITY_SECONDS={{ SECONDS }} cargo test -p skep --test swarm linearizability -- --nocapture

# nginx, redis and dnsmasq on three nodes, a CA of somebody else's, every command of swarm and node by both programs; needs docker (the client), curl, umoci, skopeo, redis-tools, bind9-dnsutils, golang-cfssl, openssl, procps, python3
real: release
    SKEP={{ release }} tests/real/run.sh target/real-images
    SKEP={{ release }} tests/real/cfssl.sh
    SKEP={{ release }} tests/real/commands.py

# podman, dockerd and containerd with skep-runtime in runc's place; needs busybox-static, bsdutils, and of podman, docker.io, containerd those that are to be tested; `just engines --runc` tests runc
engines *WHAT:
    cargo build --release -p skep-runtime-cli
    SKEP_RUNTIME={{ release }}-runtime tests/real/engines.sh {{ WHAT }}

# every attack on the runtime twice: it must fail, and succeed on a build without the defence; races of so many rounds
attacks ROUNDS="10000":
    cargo build -p skep-runtime-cli --features weakened
    mkdir -p target/weakened
    cp target/{{ arch() }}-unknown-linux-gnu/debug/skep-runtime target/weakened/skep-runtime
    SKEP_RUNTIME_WEAKENED=$PWD/target/weakened/skep-runtime SKEP_ATTACK_ROUNDS={{ ROUNDS }} cargo test -p skep-runtime-cli --test attacks

# a node on two of Debian's kernels and pure cgroup v2, emulated; needs qemu-system-x86, busybox-static
vm: release
    SKEP={{ release }} vm-images/node.sh target/vm linux-image-cloud-amd64 linux-image-6.12-cloud-amd64

# the runtime's tests on the same kernels, each kernel=modes; `-- FILTER` picks tests; needs what `vm` needs
vm-runtime *KERNELS="linux-image-cloud-amd64=v2,hybrid,v1,initramfs linux-image-6.12-cloud-amd64=v2,hybrid,v1,initramfs":
    vm-images/runtime.sh target/vm {{ KERNELS }}

# skep-runtime --systemd-cgroup beside runc, with Debian's systemd as init; needs what `vm` needs, and mmdebstrap, e2fsprogs
vm-systemd *KERNELS="linux-image-cloud-amd64=v2,hybrid,v1 linux-image-6.12-cloud-amd64=v2":
    cargo build --release -p skep-runtime-cli
    SKEP_RUNTIME={{ release }}-runtime vm-images/systemd.sh target/vm {{ KERNELS }}

# our figures beside Docker's, in one run; needs what `real` needs and docker.io (dockerd)
bench *WHAT: release
    tests/real/images.sh target/real-images
    SKEP={{ release }} tests/bench/run.sh {{ WHAT }}

# what a container costs beside runc and crun, in turn in one run: run, start, parallel, memory (all by default); needs root, and for the peers runc, crun, busybox-static
bench-runtime *WHAT:
    cargo bench -p skep-runtime-cli --bench runtime -- {{ WHAT }}

# repair what can be repaired by itself: formatting and clippy's suggestions
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

# As a part of the workspace, whose dependencies are built for its tests already.
# every fuzz target of the runtime for so many seconds, with random bytes and no fuzzer; needs root
fuzz-briefly SECONDS="2":
    FUZZ_SECONDS={{ SECONDS }} cargo test --workspace --features skep-runtime/fuzzing,skep-runtime-cli/fuzzing --test fuzz -- --nocapture

# what others can send or write is read without a panic: the fuzz targets of these rooms, each for so many seconds; needs cargo-fuzz and a C++ compiler
fuzz SECONDS="10" *ROOMS="runtime swarm/mesh":
    #!/bin/bash
    set -euo pipefail
    # Coverage and sanitizers are not stable yet, and this repository needs no other toolchain than the stable one.
    export RUSTC_BOOTSTRAP=1
    TMPDIR=$(mktemp -d)
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
    for room in {{ ROOMS }}; do
        how=(--target {{ arch() }}-unknown-linux-gnu)
        alone=()
        if [ "$room" = runtime ]; then
            # Checks of overflow and the like are what can find something here, and without a sanitizer the build
            # takes a fraction. Nothing is mounted or moved; if that were wrong, it would not be the host's.
            how+=(--sanitizer none --dev)
            alone=(unshare --mount --net)
        fi
        cd "{{ justfile_directory() }}/$room"
        cargo fuzz build "${how[@]}"
        for target in $(cargo fuzz list); do
            "${alone[@]}" cargo fuzz run "${how[@]}" "$target" -- \
                -max_total_time={{ SECONDS }} -max_len=16384 -timeout=20 -verbosity=0
        done
    done
