#!/bin/bash
# skep-runtime --systemd-cgroup beside runc, on Debian's kernels and with Debian's systemd as init: builds a disk with a
# minimal Debian, boots each kernel with it, and runs systemd-checks.sh in it.
#
#   SKEP_RUNTIME=path/to/skep-runtime vm-images/systemd.sh FOLDER KERNEL-PACKAGE[=MODE,...]...
#
# SKEP_RUNTIME must be static. FOLDER keeps the images, the disk and the consoles' texts. Each kernel (see build.sh) is
# booted once for each of its cgroup modes (run.sh's, as systemd mounts them; without any: v2). Needs what run.sh needs,
# Debian's mmdebstrap and e2fsprogs, and root where there is no disk yet.
#
# Prints a line for each check, "ok" or "FAILED", and at the end one a machine; exit code 0 says that all passed on all.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
: "${SKEP_RUNTIME:?set SKEP_RUNTIME to the program to test}"
usage="usage: systemd.sh FOLDER KERNEL-PACKAGE[=MODE,...]..."
out=$(realpath -m "${1:?$usage}")
shift
[ $# -gt 0 ] || { echo "$usage" >&2; exit 2; }

# Reached only by what hangs.
seconds_max=${VM_SECONDS_MAX:-900}

# What the checks need besides what Debian calls essential.
packages=systemd-sysv,dbus,runc,jq,busybox-static
# What a host does at each boot and the checks do not need; half of the time until a shell.
masked=(
    systemd-{sysusers,tmpfiles-setup,tmpfiles-setup-dev,update-utmp,random-seed,journal-flush,modules-load}.service
    systemd-{sysctl,binfmt,remount-fs}.service modprobe@.service dev-{hugepages,mqueue}.mount
    sys-kernel-{debug,tracing}.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount
    systemd-tmpfiles-clean.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
    fstrim.timer
)

mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- the disk: made when it is not there yet, or would be another
disk=$out/debian.ext4
recipe="$packages ${masked[*]}"
if [ "$(cat "$disk.recipe" 2>/dev/null)" != "$recipe" ]; then
    for tool in mmdebstrap mkfs.ext4; do
        command -v "$tool" >/dev/null || {
            echo "systemd.sh: $tool is missing (Debian: apt-get install mmdebstrap e2fsprogs)" >&2
            exit 1
        }
    done
    mmdebstrap --quiet --variant=essential --include="$packages" bookworm "$scratch/tree"
    for unit in "${masked[@]}"; do ln -s /dev/null "$scratch/tree/etc/systemd/system/$unit"; done
    truncate -s 1G "$scratch/disk"
    mkfs.ext4 -q -d "$scratch/tree" "$scratch/disk"
    mv "$scratch/disk" "$disk"
    echo "$recipe" >"$disk.recipe"
fi

# --- the machines
failed=0
summary=()
for kernel in "$@"; do
    package=${kernel%%=*}
    modes=v2
    [[ "$kernel" != *=* ]] || modes=${kernel#*=}
    image=$out/$package
    "$here/build.sh" "$package" "$image"
    for mode in ${modes//,/ }; do
        name="Linux $(cat "$image/release"), cgroup $mode"
        began=$SECONDS
        echo "=== $name"
        code=0
        "$here/run.sh" --disk "$disk" --cgroup "$mode" --console "$out/$package-$mode-systemd.console" \
            --seconds "$seconds_max" --file "$SKEP_RUNTIME:/usr/local/bin/skep-runtime" \
            --file "$here/systemd-checks.sh:/systemd-checks.sh" \
            "$image" bash /systemd-checks.sh /usr/local/bin/skep-runtime | tee "$scratch/said" || code=$?
        result=$(sed -n 's/^RESULT: //p' "$scratch/said")
        summary+=("$name: ${result:-no result}, $((SECONDS - began)) s")
        [ "$code" = 0 ] || failed=1
    done
done
printf '%s\n' "--- all machines" "${summary[@]}"
exit "$failed"
