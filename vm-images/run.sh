#!/bin/bash
# Boots an image that build.sh made, in QEMU under software emulation, and runs one command in it.
#
#   vm-images/run.sh [OPTION...] FOLDER COMMAND [ARGUMENT...]
#
#   --file FROM[:TO]      copies a file or folder into the guest, to the same path there unless TO says another
#   --with-program FROM   the same for a program, with all libraries that it is linked with
#   --env NAME=VALUE      a variable of the command's environment
#   --directory PATH      where the command starts; made if it is not there
#   --cgroup MODE         v2 (the default), v1, or hybrid: as systemd mounts them. In a hybrid the tree of v2 has those
#                         controllers alone that the kernel does not have in v1 (Debian's 6.12: memory and cpuset)
#   --disk FILE           an ext4 file system whose init is the guest's, and must be systemd; what is written is dropped
#   --initramfs           the root stays the kernel's ramfs, as on a diskless host: no pivot_root(2) leaves it
#   --memory MEGABYTES    1536
#   --cpus NUMBER         2
#   --seconds NUMBER      600; then the machine is turned off
#   --console FILE        FOLDER/console.log: the kernel's words of the last run
#
# FOLDER is build.sh's. The command's output, stdout and stderr alike, is this script's stdout, line by line as it comes;
# its exit code is this script's. 124: it took too long. 125: the machine stopped without a result. The guest is a root
# shell's world of busybox, without network but lo; its disk is its memory. No /dev/kvm: every machine gives the same
# result. Needs Debian's qemu-system-x86 and busybox-static.
set -euo pipefail

usage() {
    sed -n '4,/^set /p' "$0" | sed -n 's/^# \{0,1\}//p' >&2
    exit 2
}

files=()
programs=()
environment=()
directory=/root
cgroup=v2
root=moved
disk=
memory_mb=1536
cpus=2
seconds_max=600
console=
while [[ "${1:-}" = --* ]]; do
    [ "$1" != --initramfs ] || { root=initramfs; shift; continue; }
    [ $# -ge 2 ] || usage
    case $1 in
    --file) files+=("$2") ;;
    --with-program) programs+=("$2") ;;
    --env) environment+=("$2") ;;
    --directory) directory=$2 ;;
    --cgroup) cgroup=$2 ;;
    --disk) root=disk disk=$(realpath "$2") ;;
    --memory) memory_mb=$2 ;;
    --cpus) cpus=$2 ;;
    --seconds) seconds_max=$2 ;;
    --console) console=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[ $# -ge 2 ] || usage
image=$(realpath "$1")
shift
console=${console:-$image/console.log}
[[ "$cgroup" =~ ^(v1|v2|hybrid)$ ]] || usage
[ -e "$image/initramfs" ] || { echo "run.sh: $image has no image: build.sh makes it" >&2; exit 2; }
for tool in qemu-system-x86_64 busybox; do
    command -v "$tool" >/dev/null || {
        echo "run.sh: $tool is missing (Debian: apt-get install qemu-system-x86 busybox-static)" >&2
        exit 2
    }
done

scratch=$(mktemp -d)
qemu=
clean_up() {
    [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- what this run adds to the image
tree=$scratch/tree
# The initramfs's init takes what is for a disk from there.
[ -z "$disk" ] || tree=$scratch/tree/added
mkdir -p "$tree/etc" "$scratch/tree/etc"

# add FROM TO. (/lib is a link on Debian, and on a disk with it.)
add() {
    local to=$2
    [ -z "$disk" ] || to=$(realpath -m "$(dirname "$2")")/$(basename "$2")
    to=$tree/${to#/}
    mkdir -p "$(dirname "$to")"
    cp -rH --preserve=mode "$1" "$to"
}
for file in "${files[@]}"; do
    from=${file%%:*}
    to=${file#*:}
    [[ "$file" = *:* ]] || to=$(realpath -s "$file")
    add "$from" "$to"
done
for program in "${programs[@]}"; do
    add "$program" "$(realpath -s "$program")"
    # Lines of ldd: "NAME => FILE (ADDRESS)", and "FILE (ADDRESS)" for the loader. A static program has none.
    { ldd "$program" 2>/dev/null || true; } | grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1 >"$scratch/libraries" || true
    while read -r library; do add "$library" "$library"; done <"$scratch/libraries"
done
mkdir -p "$tree/${directory#/}"
printf '%s\n' "cgroup=$cgroup" "root=$root" >"$scratch/tree/etc/guest"

# In single quotes, the only ones that every shell reads alike.
quoted() { printf "'%s' " "${1//\'/\'\\\'\'}"; }
{
    for pair in "${environment[@]}"; do printf 'export %s=%s\n' "${pair%%=*}" "$(quoted "${pair#*=}")"; done
    printf 'cd %s\n' "$(quoted "$directory")"
    printf exec
    for word in "$@"; do printf ' %s' "$(quoted "$word")"; done
    echo
} >"$tree/etc/command"

# The kernel unpacks one archive after the other; not compressed, for build.sh's reason.
(cd "$scratch/tree" && find . -print0 | sort -z | busybox cpio -o0 -H newc -R 0:0 2>/dev/null) |
    cat "$image/initramfs" - >"$scratch/initramfs"

# --- the run
began=$SECONDS
status=$scratch/status
exec {output}> >(exec cat)
reader=$!
# la57=off: five levels of page tables cost an emulator dearly. no_timer_check: on a busy host an emulated timer is too
# late for the kernel's test of it, which ends in a panic.
machine=()
parameters="console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check"
if [ -n "$disk" ]; then
    machine=(-drive "file=$disk,format=raw,if=virtio,snapshot=on,cache=unsafe")
    parameters+=" systemd.unit=guest.service"
    case $cgroup in
    v2) parameters+=" systemd.unified_cgroup_hierarchy=1" ;;
    hybrid) parameters+=" systemd.unified_cgroup_hierarchy=0" ;;
    v1) parameters+=" systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1" ;;
    esac
fi
timeout "$seconds_max" qemu-system-x86_64 \
    -accel tcg,thread=single -cpu max,la57=off -smp "$cpus" -m "$memory_mb" -nodefaults -no-user-config -display none \
    -no-reboot -kernel "$image/vmlinuz" -initrd "$scratch/initramfs" \
    -append "$parameters" "${machine[@]}" \
    -serial "file:$console" -serial "file:/dev/fd/$output" -serial "file:$status" </dev/null >&2 &
qemu=$!
code=0
wait "$qemu" || code=$?
qemu=
exec {output}>&-
wait "$reader" || true

if [ "$code" = 124 ]; then
    echo "run.sh: turned off after $seconds_max s; the console's text is in $console" >&2
    exit 124
fi
result=$(awk '$1 == "exit" { print $2 }' "$status" 2>/dev/null || true)
if [ -z "$result" ]; then
    echo "run.sh: the machine stopped without a result; the end of $console:" >&2
    tail -n 40 "$console" >&2 || true
    exit 125
fi
echo "run.sh: a shell $(awk '$1 == "ready" { print $2 }' "$status") s after the kernel's start," \
    "$((SECONDS - began)) s in all" >&2
exit "$result"
