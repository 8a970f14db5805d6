#!/bin/bash
# What is checked of skep-runtime --systemd-cgroup; run as root on a host whose init is systemd, beside runc, by
# systemd.sh in a guest. The same containers live with both runtimes, one after the other, and each note that is taken of
# their units, limits and leftovers must be the same; what must be so whatever runc does is written here.
#
#   systemd-checks.sh SKEP-RUNTIME

runtime=$1
root=/tmp/systemd-checks
unit=vmtest-one.scope
failures=0 checks=0
# What goes into a unit from a spec, of either cgroup version, and what a runtime asks of systemd besides.
properties=Slice,Delegate,DevicePolicy,DeviceAllow,MemoryMax,MemoryMin,MemoryLow,MemoryHigh,MemorySwapMax,MemoryLimit
properties+=,TasksMax,CPUWeight,CPUShares,CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,AllowedCPUs,AllowedMemoryNodes
properties+=,BlockIOWeight,DefaultDependencies,MemoryAccounting,CPUAccounting,TasksAccounting,IOAccounting,BlockIOAccounting
properties+=,Transient,CollectMode,TimeoutStopUSec,ActiveState,SubState,Wants
limits="memory.max memory.min memory.low memory.high memory.swap.max memory.limit_in_bytes memory.soft_limit_in_bytes
    memory.memsw.limit_in_bytes pids.max cpu.max cpu.weight cpu.shares cpu.cfs_quota_us cpu.cfs_period_us
    cpuset.cpus cpuset.mems cpu.idle cgroup.controllers cgroup.subtree_control"

ok() { checks=$((checks + 1)); printf 'ok      %s\n' "$*"; }
fail() { checks=$((checks + 1)) failures=$((failures + 1)); printf 'FAILED  %s\n' "$*"; }
# is WHAT WANTED FOUND
is() { if [ "$2" = "$3" ]; then ok "$1: ${3:0:60}"; else fail "$1: '$3', wanted '$2'"; fi; }

# note KEY VALUE: what a runtime has made, for the comparison.
note() { printf '%s\t%s\n' "$1" "${2//$'\n'/ }" >>"$notes"; }

# --- what is asked about a container

# groups PID: its directories, one a hierarchy that has any.
groups() {
    local place
    [ "$1" -gt 0 ] 2>/dev/null || return
    while IFS=: read -r _ names place; do
        for mount in "/sys/fs/cgroup/${names#name=}" /sys/fs/cgroup/unified; do
            [ -z "$names" ] || [ "$mount" != /sys/fs/cgroup/unified ] || continue
            [ -e "$mount$place/cgroup.procs" ] && echo "$mount$place"
        done
    done <"/proc/$1/cgroup" | sort -u
}

# On v1 old versions of runc do not know of misc, and with systemd they leave the group of devices again.
compared_groups() { sed 's/^[0-9]*:/N:/' "$@" | grep -vE '^N:(misc|devices):'; }

# (DeviceAllow has a line for each device; older runtimes say drivers' names where others say numbers.)
note_unit() {
    systemctl show "$unit" -p "$properties" | sed '/^DeviceAllow=/ { s/-pts/-136/; s/-loop/-7/ }' | sort |
        awk -F= -v OFS='\t' -v when="$1" '{ name = $1; sub(/^[^=]*=/, "")
            if (name == last) value = value ", " $0
            else { if (last != "") print when " " last, value; last = name; value = $0 } }
            END { print when " " last, value }' >>"$notes"
}

note_limits() {
    local file directory
    for directory in $(groups "$pid"); do
        for file in $limits; do
            [ ! -e "$directory/$file" ] || note "$1 ${directory#/sys/fs/cgroup}/$file" "$(<"$directory/$file")"
        done
    done
}

# Which devices the container may read and make. (Opened within: a group's program judges its own processes.)
note_devices() {
    note "$1 devices" "$("$tested" exec one sh -c '
        for device in "c 1 3" "c 1 8" "c 10 200" "c 1 11" "b 7 0"; do
            rm -f /tmp/device
            mknod /tmp/device $device 2>/dev/null && made=made || made=refused
            head -c 0 /tmp/device 2>/dev/null && echo "$device: $made, read" || echo "$device: $made, unread"
        done' 2>&1)"
}

# Until what the kernel and systemd do in the background is done, or ten seconds are over.
settled() {
    for _ in $(seq 100); do
        "$@" && return
        sleep 0.1
    done
    return 1
}
units() { systemctl list-units --all --plain --no-legend "$unit" 2>/dev/null; }
paths() { find /sys/fs/cgroup -type d -name "$unit"; }
has_no_unit() { [ -z "$(units)" ]; }
is_dead() { [ "$("$tested" state one 2>/dev/null | jq -r .status)" = stopped ]; }

# --- the containers

# spec FILTER: a bundle with busybox and runc's default spec, changed by a filter of jq's.
spec() {
    rm -rf "$root/bundle"
    mkdir -p "$root/bundle/rootfs"/{bin,tmp,proc,dev,sys}
    cp "$(command -v busybox)" "$root/bundle/rootfs/bin/busybox"
    for applet in sh sleep sort cat mknod head rm stat; do ln -s busybox "$root/bundle/rootfs/bin/$applet"; done
    chown -R 100000:100000 "$root/bundle/rootfs"
    chmod 1777 "$root/bundle/rootfs/tmp"
    (cd "$root/bundle" && runc spec)
    jq '.process.terminal = false | .process.args = ["sleep", "1000"] | .root.readonly = false
        | .process.capabilities |= (map_values(. + ["CAP_MKNOD"]) | del(.ambient)) | '"$1" \
        <"$root/bundle/config.json" >"$root/config.json"
    mv "$root/config.json" "$root/bundle/config.json"
}

# life RUNTIME UPDATE...: create, start, exec, update with such options, pause, kill, delete; with notes of all.
life() {
    local runtime=$1 name
    shift
    name=$(basename "$runtime")
    notes=$root/notes.$name
    rm -f "$notes"
    # Not a function: its processes are to be the runtime's own.
    printf '#!/bin/sh\nexec %s --systemd-cgroup --root %s/state.%s "$@"\n' "$runtime" "$root" "$name" >"$root/tested"
    chmod +x "$root/tested"
    tested=$root/tested
    if ! "$tested" create --bundle "$root/bundle" one >"$root/said" 2>&1 </dev/null; then
        note "created" "no"
        printf '  %s says: %s\n' "$name" "$(tail -n 3 "$root/said")"
        settled has_no_unit
        note "after a failed create: unit" "$(units)"
        note "after a failed create: groups" "$(paths)"
        return
    fi
    pid=$("$tested" state one | jq .pid)
    note "created" "$(compared_groups "/proc/$pid/cgroup")"
    in_all=$(cut -d: -f3 "/proc/$pid/cgroup" | sort -u)
    note_unit "created"
    note_limits "created"
    "$tested" start one || note "start" "fails"
    note "owner" "$("$tested" exec one stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs 2>/dev/null)"
    note "own view" "$("$tested" exec one cat /proc/self/cgroup 2>&1 | compared_groups)"
    note "own mounts" "$("$tested" exec one cat /proc/self/mountinfo |
        awk '$5 ~ /cgroup/ && !/tmpfs|cgroup\/(misc|devices)/ { print $4, $5, $6 }')"
    note "exec fails with" "$("$tested" exec one sh -c 'exit 7'; echo $?)"
    note_devices "running"
    if [ $# -gt 0 ]; then
        note "update" "$("$tested" update "$@" one 2>&1 >/dev/null; echo $?)"
        note_unit "updated"
        note_limits "updated"
        note_devices "updated"
    fi
    systemctl daemon-reload
    note_unit "reloaded"
    note_limits "reloaded"
    note_devices "reloaded"
    "$tested" pause one || note "pause" "fails"
    note "paused" "$("$tested" state one | jq -r .status)"
    note_unit "paused"
    "$tested" resume one || note "resume" "fails"
    note "resumed" "$("$tested" state one | jq -r .status)"
    "$tested" kill one KILL || note "kill" "fails"
    settled is_dead
    note "killed" "$("$tested" state one | jq -r .status)"
    "$tested" delete one || note "delete" "fails"
    settled has_no_unit
    note "leftovers: unit" "$(units)"
    note "leftovers: groups" "$(paths)"
    note "leftovers: files" "$(ls -A /run/systemd/transient "$root/state.$name/" | grep -v :)"
}

# noted KEY: what was noted of the runtime under test.
noted() { sed -n "s/^$1\t\(.*[^ ]\) *$/\1/p" "$root/notes.$(basename "$runtime")"; }

# beside_runc WHAT FILTER UPDATE...: the same life with both, and the comparison.
beside_runc() {
    local what=$1 filter=$2
    shift 2
    spec "$filter"
    life "$(command -v runc)" "$@"
    life "$runtime" "$@"
    awk -F'\t' -v what="$what" '
        NR == FNR { wanted[$1] = $2; next }
        { same = $1 in wanted && wanted[$1] == $2
          printf "%s%s: %s: %s%s\n", same ? "ok      " : "FAILED  ", what, $1, substr($2, 1, same ? 60 : 500),
              same ? "" : $1 in wanted ? ", and with runc " wanted[$1] : ", and with runc nothing"
          delete wanted[$1] }
        END { for (key in wanted) keys = keys ", " key
              if (keys != "") printf "FAILED  %s: with runc there is more: %s\n", what, substr(keys, 3, 500) }
    ' "$root/notes.runc" "$notes" | sed 's/ *$//' | tee "$root/compared"
    checks=$((checks + $(wc -l <"$root/compared")))
    failures=$((failures + $(grep -c ^FAILED "$root/compared")))
}

mkdir -p "$root"
chmod 755 "$root"
# What is not there on the host, old runtimes do not tell systemd of.
busybox modprobe tun
busybox modprobe loop
version=v1
[ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] || version=v2
echo "--- Linux $(uname -r), $(systemctl --version | head -n 1), cgroup $version, $(runc --version | head -n 1)"

# The default prefix is each runtime's own, so all are named.
at='.linux.cgroupsPath = "vm-inner.slice:vmtest:one"'
apart='.linux.namespaces |= map(select(.type != "cgroup"))'
joined="$apart"' | .linux.namespaces += [{"type": "cgroup"}]'
mounted='.mounts |= map(select(.type != "cgroup")) + [{"destination": "/sys/fs/cgroup", "type": "cgroup",
    "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}]'
unmounted='.mounts |= map(select(.type != "cgroup"))'
# (Of shares, numbers that all versions of runc make the same weight of.)
limited='.linux.resources += {
    "memory": {"limit": 67108864, "reservation": 33554432, "swap": 134217728},
    "cpu": {"quota": 50000, "period": 100000, "shares": 262144, "cpus": "0"}, "pids": {"limit": 50}}'
tun='.linux.resources.devices += [{"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
    {"allow": true, "type": "b", "major": 7, "access": "rwm"}]'

beside_runc "limits and devices" "$at | $joined | $mounted | $limited | $tun" \
    --memory 100663296 --memory-swap 201326592 --pids-limit 60 --cpu-quota 70000 --cpu-share 2
if [ "$version" = v2 ]; then
    is "MemoryMax" 67108864 "$(noted "created MemoryMax")"
    is "TasksMax" 50 "$(noted "created TasksMax")"
    is "the limit after the reload" 100663296 "$(noted "reloaded MemoryMax")"
    is "its own group" N::/ "$(noted "own view")"
fi
is "the slice" vm-inner.slice "$(noted "created Slice")"
is "handed over" yes "$(noted "created Delegate")"
is "the same group everywhere" /vm.slice/vm-inner.slice/vmtest-one.scope "$in_all"
devices=$(noted "running devices")
is "an allowed device" "c 10 200: made, read" "$(grep -o 'c 10 200: [a-z]*, [a-z]*' <<<"$devices")"
is "a device that is not" "c 1 11: made, unread" "$(grep -o 'c 1 11: [a-z]*, [a-z]*' <<<"$devices")"
beside_runc "without a cgroup namespace" "$at | $apart | $mounted | $limited"
beside_runc "what systemd rounds or has no limit for, annotations, no slice" "$joined | $unmounted"'
    | .linux.cgroupsPath = ":vmtest:one" | .annotations += {
        "org.systemd.property.TimeoutStopUSec": "uint64 123456789",
        "org.systemd.property.CollectMode": "'"'inactive-or-failed'"'"}
    | .linux.resources += {"cpu": {"quota": 12345, "period": 50000}, "pids": {"limit": -1}}' \
    --cpu-period 70000
[ "$version" = v1 ] || beside_runc "files of v2 by their names" "$at | $joined | $unmounted"' | .linux.resources += {
    "unified": {"memory.max": "67108864", "memory.min": "131072", "memory.high": "50331648", "memory.swap.max": "0",
        "pids.max": "99", "cpu.max": "20000 100000", "cpu.weight": "42", "cpuset.cpus": "0"}}'
# (The image's root directory must let the user namespace's root make mount points.)
[ "$version" = v1 ] || beside_runc "a user namespace with its group to write to" "$at | $joined | $mounted"' | .mounts |=
    map(if .type == "cgroup" then .options -= ["ro"] else . end) | .linux |= (.namespaces += [{"type": "user"}]
    | .uidMappings = [{"containerID": 0, "hostID": 100000, "size": 65536}] | .gidMappings = .uidMappings)'
beside_runc "a property that systemd refuses" "$at | $unmounted"' | .annotations += {
    "org.systemd.property.Nothing": "true"}'

# --- a slice, into which runc cannot put a container
if [ "$version" = v2 ]; then
    unit=vmtest-a.slice
    spec '.linux.cgroupsPath = "::vmtest-a.slice" | '"$unmounted | $limited"
    life "$runtime" --memory 100663296
    is "a slice" /vmtest.slice/vmtest-a.slice "$in_all"
    is "a slice: MemoryMax" 67108864 "$(noted "created MemoryMax")"
    is "a slice: memory.max after update and reload" 100663296 "$(noted "reloaded .*\/memory.max")"
    is "a slice: leftovers" "" "$(noted "leftovers: .*")"
    unit=vmtest-one.scope
fi

# --- in the foreground
spec "$at | $joined | $mounted | $limited"'| .process.args = ["sh", "-c", "cat /proc/self/cgroup; exit 9"]'
for one in "$(command -v runc)" "$runtime"; do
    "$one" --systemd-cgroup run --bundle "$root/bundle" one >"$root/out" 2>/dev/null </dev/null
    { echo "code $?"; compared_groups "$root/out"; } >"$root/run.$(basename "$one")"
    settled has_no_unit
    is "run of $(basename "$one") leaves" "" "$(units)$(paths)"
done
is "run" "$(cat "$root/run.runc")" "$(cat "$root/run.$(basename "$runtime")")"

# --- what takes too much
spec "$at | $unmounted"'| .linux.resources.memory.limit = 16777216 | .linux.resources.memory.swap = 16777216
    | .process.args = ["sh", "-c", "head -c 64000000 /dev/zero | sort >/dev/null; sleep 1000"]'
"$runtime" --systemd-cgroup run --detach --bundle "$root/bundle" one >/dev/null 2>&1 </dev/null
pid=$("$runtime" state one | jq .pid)
killed() { cat $(groups "$pid" | sed 's/$/\/memory.events/') 2>/dev/null | grep -q '^oom_kill [1-9]' ||
    cat $(groups "$pid" | sed 's/$/\/memory.oom_control/') 2>/dev/null | grep -q '^oom_kill [1-9]'; }
if settled killed; then ok "the memory limit kills"; else fail "the memory limit does not kill"; fi
"$runtime" --systemd-cgroup delete --force one
settled has_no_unit
is "after delete --force" "" "$(units)$(paths)"

# --- the container's end, unasked
spec "$at | $unmounted"'| .process.args = ["sleep", "1"]'
"$runtime" --systemd-cgroup run --detach --bundle "$root/bundle" one >/dev/null 2>&1 </dev/null
tested=$runtime
settled is_dead
"$runtime" delete one
settled has_no_unit
is "after a delete without --systemd-cgroup" "" "$(units)$(paths)"

# --- systemd stops the unit
spec "$at | $unmounted"
"$runtime" --systemd-cgroup run --detach --bundle "$root/bundle" one >/dev/null 2>&1 </dev/null
systemctl stop "$unit"
settled is_dead
is "systemctl stop ends the container" stopped "$("$runtime" state one | jq -r .status)"
"$runtime" delete one
is "and delete finds nothing to complain of" 0 $?

# --- what the kernel's own ramfs is not: a file system with ID-mapped mounts, whatever the kernel
mkdir -p "$root/data"
touch "$root/data/file"
spec "$at | $unmounted"' | .process.args = ["stat", "-c", "%u %g", "/data/file"] | .mounts += [{
    "destination": "/data", "source": "'"$root/data"'", "options": ["bind", "idmap"],
    "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
    "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 10}]}]'
is "an ID-mapped mount of $(stat -f -c %T "$root/data")" "1000 2000" \
    "$("$runtime" --systemd-cgroup run --bundle "$root/bundle" one 2>&1 </dev/null)"

systemctl list-units --all --plain --no-legend 'vm*' >"$root/left"
is "units at the end" "" "$(awk '$1 !~ /^(vm|vm-inner|vmtest)\.slice$/ { print $1 }' "$root/left")"
echo "RESULT: $((checks - failures)) passed, $failures failed"
[ "$failures" = 0 ]
