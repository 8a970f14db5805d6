#!/bin/bash
# skep-runtime under the engines that people use: podman, dockerd and containerd run containers with it, exec into them,
# limit them, pause them, stop them and tell what became of them. One line a check; engines that are not installed are
# named and left out. Everything lies in folders and cgroups of this run, which are removed at its end.
#
# Needs root, busybox-static, bsdutils (script), and of the engines what is to be tested: podman; docker.io (dockerd and
# docker); containerd (containerd, ctr, containerd-shim-runc-v2).
#
#   SKEP_RUNTIME=path/to/skep-runtime engines.sh [--runc] [podman|dockerd|containerd]...
#
# --runc tests runc instead, for comparison: what runc fails at here is not ours to pass.
set -uo pipefail

if [ "${1:-}" = --runc ]; then
    runtime=$(command -v runc) || { echo "engines.sh: runc is missing" >&2; exit 1; }
    shift
else
    runtime=$(realpath "${SKEP_RUNTIME:?set SKEP_RUNTIME to the program to test}")
fi
[ -x "$runtime" ] || { echo "engines.sh: $runtime is no program" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "engines.sh: needs root" >&2; exit 1; }
for tool in busybox unshare script; do
    command -v "$tool" >/dev/null || { echo "engines.sh: $tool is missing" >&2; exit 1; }
done

scratch=$(mktemp -d)
group=engines-$$
failures=0 checks=0 cleanups=()

ok() { checks=$((checks + 1)); printf 'ok      %s\n' "$engine: $*"; }
fail() { checks=$((checks + 1)) failures=$((failures + 1)); printf 'FAILED  %s\n' "$engine: $*"; }

# check WHAT CODE PATTERN COMMAND...: the command ends with the code (a pattern too) and says, on either stream, what
# matches.
check() {
    local what=$1 code=$2 pattern=$3 said got
    shift 3
    said=$("$@" 2>&1 </dev/null | tr -d '\r\0'; exit "${PIPESTATUS[0]}")
    got=$?
    if [[ $got =~ ^($code)$ ]] && grep -qE -- "$pattern" <<<"$said"; then
        ok "$what"
    else
        fail "$what: code $got (not $code): '${said:0:300}' (not '$pattern')"
    fi
}

# within SECONDS COMMAND...: whether the command succeeds at last.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -ge "$end" ] && return 1
        sleep 0.05
    done
}

# The engine's command line is in `command`.
cli() { "${command[@]}" "$@"; }
on_terminal() { script -qec "$(printf '%q ' "${command[@]}" "$@")" /dev/null; }
run() { cli run "${run_flags[@]}" "$@"; }
piped() { echo piped | "$@"; }
logged() { cli logs "$1" | grep -q "$2"; }
healthy() { [ "$(cli inspect -f '{{.State.Health.Status}}' "$1")" = healthy ]; }

# limit CONTAINER CONTROLLER FILE_V1 FILE_V2: a limit as the kernel has it.
limit() {
    local pid place
    pid=$(cli inspect -f '{{.State.Pid}}' "$1")
    place=$(awk -F: -v c="$2" '$2 ~ "(^|,)" c "(,|$)" { print $3 }' "/proc/$pid/cgroup")
    if [ -n "$place" ]; then
        cat "/sys/fs/cgroup/$2$place/$3"
    else
        cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/$4"
    fi
}

gone() {
    trap - EXIT
    for cleanup in "${cleanups[@]}"; do "$cleanup" >/dev/null 2>&1; done
    find /sys/fs/cgroup -depth -type d -path "*/$group*" -exec rmdir {} + 2>/dev/null
    # podman makes groups of controllers that are not mounted too: common directories on the tmpfs that holds the others.
    local left
    for left in /sys/fs/cgroup/*/"$group"; do
        if [ -d "$left" ] && [ "$(stat -f -c %T "$left")" = tmpfs ]; then
            rm -rf "$left"
            rmdir "${left%/*}" 2>/dev/null
        fi
    done
    rm -rf --one-file-system "$scratch"
}
trap gone EXIT
trap 'exit 130' INT TERM

# ---------------------------------------------------------------- one image of busybox alone, as an archive
image() {
    local layer config
    mkdir -p "$scratch"/root/{bin,etc,tmp,proc,sys,dev,run} "$scratch/archive"
    for applet in $(busybox --list); do ln -sf busybox "$scratch/root/bin/$applet"; done
    cp --remove-destination "$(command -v busybox)" "$scratch/root/bin/busybox"
    printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$scratch/root/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\nmore:x:2000:user\n' >"$scratch/root/etc/group"
    tar -C "$scratch/root" -cf "$scratch/archive/layer.tar" .
    layer=$(sha256sum <"$scratch/archive/layer.tar" | cut -d' ' -f1)
    config=$(printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"busybox"}]}' \
        "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')" "$layer")
    printf %s "$config" >"$scratch/archive/config.json"
    echo '[{"Config":"config.json","RepoTags":["docker.io/library/tiny:1"],"Layers":["layer.tar"]}]' >"$scratch/archive/manifest.json"
    tar -C "$scratch/archive" -cf "$scratch/image.tar" .
}

# ---------------------------------------------------------------- podman and docker have one command line
cli_checks() {
    # What becomes of a program, and what is said when there is none.
    check "run, output" 0 '^hello$' run --rm tiny:1 echo hello
    check "exit code 7" 7 '' run --rm tiny:1 sh -c 'exit 7'
    check "exit code of a signal" 137 '' run --rm tiny:1 sh -c 'sh -c "kill -9 \$\$"; exit $?'
    check "no such command is 127" 127 'not found|no such file' run --rm tiny:1 nosuch
    check "a directory is 126" 126 'ermission denied|s a directory' run --rm tiny:1 /tmp

    # A long-lived one.
    run -d --name long --memory 64m --pids-limit 20 --cpus 0.5 tiny:1 \
        sh -c 'trap "echo bye; exit 3" TERM; echo up; while :; do sleep 0.1; done' >/dev/null || fail "run -d"
    check "logs" 0 '' within 10 logged long up
    check "exec" 5 '^in$' cli exec long sh -c 'echo in; exit 5'
    check "exec on a terminal" 0 '/dev/pts/' on_terminal exec -t long tty
    check "exec without one" 1 'not a tty' cli exec long tty
    check "exec as a user, elsewhere, with a variable" 0 '^1000 /tmp v$' cli exec --user user -w /tmp -e V=v long sh -c 'echo $(id -u) $PWD $V'
    # dockerd 20.10 makes 126 of it.
    check "exec of nothing is 127" '126|127' 'not found|no such file' cli exec long nosuch
    check "exec of a directory is 126" 126 'ermission denied|s a directory' cli exec long /tmp
    check "exec -d" 0 '' cli exec -d long sh -c 'echo detached >/tmp/detached'
    check "exec -d ran" 0 '' within 10 cli exec long grep detached /tmp/detached
    check "top" 0 'sleep|sh -c' cli top long
    check "stats" 0 '64MiB|67\.11MB' cli stats --no-stream long
    check "pids limit bites" '0|2' 'an.t fork|resource' cli exec long sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do sleep 2 & done 2>&1; true'
    check "cpu quota" 0 '^50000$|^50000 100000$' limit long cpu cpu.cfs_quota_us cpu.max
    check "memory limit" 0 '^67108864$' limit long memory memory.limit_in_bytes memory.max
    check "live update" 0 '' cli update --memory 48m --memory-swap 48m long
    check "memory limit after it" 0 '^50331648$' limit long memory memory.limit_in_bytes memory.max
    check "pause" 0 '' cli pause long
    check "is paused" 0 '^paused$' cli inspect -f '{{.State.Status}}' long
    check "exec into a paused one is refused" '1|125|255' 'paused|on running containers' cli exec long true
    check "unpause" 0 '' cli unpause long
    # What filled the limit above takes two seconds to end.
    check "runs on" 0 '' within 10 cli exec long echo on
    check "stop by SIGTERM" 0 '' cli stop -t 20 long
    check "its own exit code" 0 '^3$' cli inspect -f '{{.State.ExitCode}}' long
    check "start again" 0 '' cli start long
    check "kill with a signal of choice" 0 '' cli kill -s KILL long
    check "wait" 0 '^137$' cli wait long
    check "rm" 0 '' cli rm long

    run -d --name deaf tiny:1 sh -c 'trap "" TERM; while :; do sleep 0.1; done' >/dev/null
    check "stop of one that is deaf" 0 '' cli stop -t 1 deaf
    check "was killed" 0 '^137$' cli inspect -f '{{.State.ExitCode}}' deaf
    cli rm -f deaf >/dev/null

    check "too much memory" 137 '' run --name fat --memory 16m --memory-swap 16m tiny:1 sh -c 'tail /dev/zero; exit $?'
    cli rm -f fat >/dev/null
    run --name fat --memory 16m --memory-swap 16m tiny:1 tail /dev/zero >/dev/null 2>&1
    # podman's monitor looks for it elsewhere than where runc puts the group.
    [ "$engine" = podman ] || check "the engine knows it was that" 0 '^true$' cli inspect -f '{{.State.OOMKilled}}' fat
    cli rm -f fat >/dev/null

    # Flags, each by what can be seen inside.
    "$has_init" && check "--init" 0 'init|catatonit|tini' run --rm --init tiny:1 cat /proc/1/cmdline
    check "--read-only" 1 'Read-only' run --rm --read-only tiny:1 touch /x
    check "--privileged" 0 'CapEff:.*0000[0-3]+f+e?f+$' run --rm --privileged tiny:1 grep CapEff /proc/self/status
    check "--user" 0 '^uid=1000.*gid=1000.*groups=1000' run --rm --user 1000:1000 tiny:1 id
    check "--group-add" 0 'groups=.*2000' run --rm --user 1000 --group-add 2000 tiny:1 id
    echo shared >"$scratch/shared"
    check "-v" 0 '^shared$' run --rm -v "$scratch/shared:/mnt/shared:ro" tiny:1 cat /mnt/shared
    check "-v :ro" 1 'Read-only' run --rm -v "$scratch/shared:/mnt/shared:ro" tiny:1 sh -c 'echo >/mnt/shared'
    check "--tmpfs" 0 'tmpfs /mnt tmpfs .*size=1024k' run --rm --tmpfs /mnt:size=1m tiny:1 grep ' /mnt ' /proc/mounts
    check "--cap-drop" 0 'CapEff:.*0000000000000000$' run --rm --cap-drop ALL tiny:1 grep CapEff /proc/self/status
    check "--cap-add" 0 'CapEff:.*0000000000001000$' run --rm --cap-drop ALL --cap-add NET_ADMIN tiny:1 grep CapEff /proc/self/status
    echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}' >"$scratch/seccomp.json"
    check "--security-opt seccomp" 1 'not supported' run --rm --security-opt "seccomp=$scratch/seccomp.json" tiny:1 mkdir /tmp/x
    check "default seccomp" 0 'Seccomp:.*2' run --rm tiny:1 grep Seccomp: /proc/self/status
    check "no-new-privileges" 0 'NoNewPrivs:.*1' run --rm --security-opt no-new-privileges tiny:1 grep NoNewPrivs /proc/self/status
    check "--pid host" 0 "^$(readlink /proc/self/ns/pid | tr -d '[]:' | sed 's/pid/.*/')" run --rm --pid host tiny:1 readlink /proc/self/ns/pid
    check "--network none" 0 '^1$' run --rm --network none tiny:1 sh -c 'ls /sys/class/net | wc -l'
    check "--network host" 0 'net:' run --rm --network host tiny:1 readlink /proc/self/ns/net
    check "--ulimit" 0 '^99$' run --rm --ulimit nofile=99:99 --ulimit nproc=4096:4096 tiny:1 sh -c 'ulimit -n'
    check "--device" 0 '^crw.* 1, *3 ' run --rm --device /dev/null:/dev/nothing tiny:1 ls -l /dev/nothing
    check "--hostname" 0 '^other$' run --rm --hostname other tiny:1 hostname
    check "--sysctl" 0 '^77$' run --rm --sysctl kernel.shm_rmid_forced=1 --sysctl kernel.msgmni=77 tiny:1 cat /proc/sys/kernel/msgmni
    check "--oom-score-adj" 0 '^700$' run --rm --oom-score-adj 700 tiny:1 cat /proc/self/oom_score_adj
    check "-t" 0 '/dev/pts/0' on_terminal run "${run_flags[@]}" --rm -t tiny:1 tty
    check "-i" 0 '^piped$' piped run --rm -i tiny:1 cat
    run -d --name well --health-cmd 'test -e /tmp/well' --health-interval 1s tiny:1 sh -c 'touch /tmp/well; sleep 60' >/dev/null
    # podman has nobody but systemd to run it at its times.
    [ "$engine" = podman ] && check "healthcheck run" 0 '' cli healthcheck run well
    check "healthcheck" 0 '' within 15 healthy well
    cli kill well >/dev/null
    cli rm -f well >/dev/null 2>&1
}

# ---------------------------------------------------------------- podman
test_podman() {
    # The engine's own defaults want higher limits than who lacks CAP_SYS_RESOURCE may give.
    cat >"$scratch/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=4096:4096"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
    export CONTAINERS_CONF=$scratch/containers.conf
    command=(timeout --foreground 40 podman --root "$scratch/podman" --runroot "$scratch/podman-run"
        --tmpdir "$scratch/podman-tmp" --storage-driver vfs --runtime "$runtime")
    run_flags=(--cgroup-parent "/$group")
    has_init=$(command -v catatonit >/dev/null && echo true || echo false)
    cleanups+=(gone_podman)
    cli load -q -i "$scratch/image.tar" >/dev/null || { fail "load"; return; }
    cli_checks
    check "--uidmap" 0 '0 +100000 +1000' run --rm --uidmap 0:100000:1000 tiny:1 cat /proc/self/uid_map
    check "--systemd=always" 0 '' run --rm --systemd=always tiny:1 true
    check "--preserve-fds" 0 '^handed$' handed run --rm --preserve-fds 1 tiny:1 sh -c 'cat <&3'
    check "cp" 0 '' copied
}
handed() { "$@" 3< <(echo handed); }
copied() {
    run -d --name copy tiny:1 sleep 60 >/dev/null && cli cp "$scratch/shared" copy:/tmp/copy &&
        cli exec copy grep shared /tmp/copy
    local code=$?
    cli rm -f -t 0 copy >/dev/null
    return $code
}
gone_podman() {
    cli rm -fa -t 0
    umount "$scratch/podman/vfs" "$scratch/podman"
}

# ---------------------------------------------------------------- dockerd
# In namespaces of its own: no bridge or firewall rule of this machine's is touched, and no name server is asked.
test_dockerd() {
    local folder=$scratch/docker
    mkdir -p "$folder"
    echo 'nameserver 127.0.0.1' >"$folder/resolv.conf"
    unshare --net --mount --propagation private bash -c 'mount --bind "$0/resolv.conf" /etc/resolv.conf; ip link set lo up; shift 0; exec dockerd "$@"' \
        "$folder" --data-root "$folder/data" --exec-root "$folder/exec" -H "unix://$folder/sock" --pidfile "$folder/pid" \
        --bridge none --iptables=false --ip6tables=false --storage-driver vfs --cgroup-parent "/$group" --exec-opt native.cgroupdriver=cgroupfs \
        --add-runtime "tested=$runtime" --default-runtime tested >"$folder/log" 2>&1 &
    dockerd=$!
    command=(timeout --foreground 40 docker -H "unix://$folder/sock")
    run_flags=()
    has_init=$(command -v docker-init >/dev/null && echo true || echo false)
    cleanups+=(gone_dockerd)
    within 30 cli version || { fail "dockerd does not answer: $(tail -3 "$folder/log")"; return; }
    cli load -q -i "$scratch/image.tar" >/dev/null || { fail "load"; return; }
    cli_checks
}
gone_dockerd() {
    cli ps -aq | while read -r id; do cli rm -f "$id"; done
    kill "$dockerd" && wait "$dockerd"
}

# ---------------------------------------------------------------- containerd, by its own command
test_containerd() {
    local folder=$scratch/containerd
    mkdir -p "$folder"
    cat >"$folder/config.toml" <<CONF
version = 2
root = "$folder/data"
state = "$folder/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$folder/sock"
[ttrpc]
address = "$folder/sock.ttrpc"
CONF
    containerd -c "$folder/config.toml" >"$folder/log" 2>&1 &
    containerd=$!
    command=(timeout --foreground 40 ctr -a "$folder/sock")
    run_flags=(--snapshotter native --runc-binary "$runtime")
    cleanups+=(gone_containerd)
    within 20 cli version || { fail "containerd does not answer: $(tail -3 "$folder/log")"; return; }
    cli images import --snapshotter native "$scratch/image.tar" >/dev/null || { fail "import"; return; }
    check "run, output" 0 '^hello$' run --rm "$tiny" one echo hello
    check "exit code 7" 7 '' run --rm "$tiny" one sh -c 'exit 7'
    check "no such command" 1 'not found|no such file' run --rm "$tiny" one nosuch
    cli containers rm one >/dev/null 2>&1
    check "on a terminal" 0 '/dev/pts/0' on_terminal run "${run_flags[@]}" --rm -t "$tiny" one tty
    check "--privileged" 0 'CapEff:.*0000[0-3]+f+e?f+$' run --rm --privileged "$tiny" one grep CapEff /proc/self/status
    check "--cwd, --env" 0 '^0 /tmp v$' run --rm --cwd /tmp --env V=v "$tiny" one sh -c 'echo $(id -u) $PWD $V'
    check "--read-only" 1 'Read-only' run --rm --read-only "$tiny" one touch /x
    check "-d" 0 '' run -d --memory-limit 67108864 "$tiny" long sleep 1000
    check "exec" 5 '^in$' cli tasks exec --exec-id a long sh -c 'echo in; exit 5'
    check "exec on a terminal" 0 '/dev/pts/' on_terminal tasks exec -t --exec-id b long tty
    check "exec of nothing" 1 'not found|no such file' cli tasks exec --exec-id c long nosuch
    check "metrics" 0 'memory.*' cli tasks metrics long
    check "ps" 0 '[0-9]' cli tasks ps long
    check "pause" 0 '' cli tasks pause long
    check "is paused" 0 'long.*PAUSED' cli tasks ls
    check "resume" 0 '' cli tasks resume long
    check "kill" 0 '' cli tasks kill -s SIGKILL long
    check "its end is known" 0 '' within 10 stopped long
    check "its code" 0 'code 137' cli tasks rm long
    check "rm" 0 '' cli containers rm long
}
tiny=docker.io/library/tiny:1
stopped() { cli tasks ls | grep -qE "^$1 .*STOPPED"; }
gone_containerd() {
    cli tasks ls -q | while read -r id; do cli tasks rm -f "$id"; done
    kill "$containerd" && wait "$containerd"
}

engines=("$@")
[ "${#engines[@]}" = 0 ] && engines=(podman dockerd containerd)
image
cd "$scratch" || exit 1 # podman's monitor leaves files where it was started
for engine in "${engines[@]}"; do
    if command -v "$engine" >/dev/null; then
        "test_$engine"
    else
        echo "absent  $engine"
    fi
done
echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
