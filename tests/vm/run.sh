#!/bin/bash
# Boots Debian 12's own kernel (6.1, pure cgroup v2) in QEMU under software emulation and runs checks.sh in it.
#
#   SKEP=path/to/skep tests/vm/run.sh FOLDER
#
# SKEP must be static: the guest has nothing but busybox beside it. FOLDER keeps the unpacked kernel from run to run,
# the console's text of the last run (console.log) and nothing else. Needs Debian's qemu-system-x86, busybox-static, cpio
# and zstd; the kernel's package is unpacked, never installed. No /dev/kvm: every machine gives the same result.
#
# Prints the guest's PASS and FAIL lines; exit code 0 says that all passed.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
: "${SKEP:?set SKEP to the program to test}"
skep=$(realpath "$SKEP")
out=$(realpath -m "${1:?usage: run.sh FOLDER}")

# A whole run takes about two minutes on a busy two-core machine; a hung guest must not hold up everything behind it.
seconds_max=${VM_SECONDS_MAX:-600}
memory_mb=1536
meta_package=linux-image-cloud-amd64

# What a Debian host has and the guest may load; with all that these need. Loading is left to the kernel, as on any
# host: a module that skep needs but whose loading it does not cause is a failure that this test is to show.
modules=(
    overlay veth tun dummy bridge
    nf_tables nft_chain_nat nft_ct nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_hash nft_limit nft_log nft_masq
    nft_nat nft_numgen nft_objref nft_redir nft_reject nft_reject_inet nft_reject_ipv4 nft_reject_ipv6 nft_socket
    nf_conntrack nf_conntrack_netlink nf_nat nfnetlink
)

for tool in apt-get dpkg-deb qemu-system-x86_64 busybox cpio zstd; do
    command -v "$tool" >/dev/null || {
        echo "run.sh: $tool is missing (Debian: apt-get install qemu-system-x86 busybox-static cpio zstd)" >&2
        exit 1
    }
done
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- the kernel: fetched when it is not there yet
package=$(apt-cache depends --important "$meta_package" | awk '$1 == "Depends:" && /linux-image/ { print $2; exit }')
[ -n "$package" ] || { echo "run.sh: apt knows no $meta_package (apt-get update?)" >&2; exit 1; }
release=${package#linux-image-}
kernel=$out/$package
if [ ! -e "$kernel/unpacked" ]; then
    rm -rf "$kernel"
    mkdir -p "$scratch/deb" "$kernel"
    (cd "$scratch/deb" && apt-get -qq -o APT::Sandbox::User=root download "$package")
    dpkg-deb -x "$scratch"/deb/*.deb "$kernel"
    busybox depmod -b "$kernel" "$release"
    touch "$kernel/unpacked"
fi

# --- the guest's files
tree=$scratch/tree
mkdir -p "$tree"/{bin,sbin,dev,etc,proc,sys,run,tmp,var,root,newroot} "$tree/lib/modules/$release"
cp "$(command -v busybox)" "$tree/bin/busybox"
cp "$skep" "$tree/bin/skep"
cp "$here/init" "$tree/init"
cp "$here/checks.sh" "$tree/checks.sh"
chmod 755 "$tree/init" "$tree/bin/skep"
echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"

from=$kernel/lib/modules/$release
for module in "${modules[@]}"; do
    # A line of modules.dep: the module's file, a colon, the files that it needs.
    line=$(grep -E "/$module\.ko[.a-z]*:" "$from/modules.dep") || {
        grep -q "/$module\.ko" "$from/modules.builtin" && continue
        echo "run.sh: $package has no module $module" >&2
        exit 1
    }
    for file in ${line/:/ }; do
        mkdir -p "$tree/lib/modules/$release/$(dirname "$file")"
        cp "$from/$file" "$tree/lib/modules/$release/$file"
    done
done
cp "$from"/modules.{order,builtin,builtin.modinfo} "$tree/lib/modules/$release/"
busybox depmod -b "$tree" "$release"

# --- an image with busybox, as `docker save` writes it
image=$scratch/image
mkdir -p "$image" "$scratch/layer/bin" "$scratch/layer/tmp"
cp "$(command -v busybox)" "$scratch/layer/bin/busybox"
for applet in sh tail sleep head httpd; do ln -s busybox "$scratch/layer/bin/$applet"; done
tar -C "$scratch/layer" --owner=0 --group=0 --numeric-owner -cf "$image/layer.tar" bin tmp
digest=$(sha256sum "$image/layer.tar" | cut -d' ' -f1)
cat >"$image/config.json" <<JSON
{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/sleep","3600"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$digest"]}}
JSON
echo '[{"Config":"config.json","RepoTags":["busybox:test"],"Layers":["layer.tar"]}]' >"$image/manifest.json"
tar -C "$image" -cf "$tree/busybox.tar" manifest.json config.json layer.tar

# Level 1: unpacking is emulated too, and costs more than reading.
(cd "$tree" && find . -print0 | sort -z | cpio --quiet --null -o -H newc -R 0:0) | zstd -q -1 >"$scratch/initramfs"

# --- the run
echo "kernel $release, skep $(stat -c %s "$skep") bytes, initramfs $(stat -c %s "$scratch/initramfs") bytes"
began=$SECONDS
log=$out/console.log
# la57=off: five levels of page tables cost an emulator dearly.
timeout --foreground "$seconds_max" qemu-system-x86_64 \
    -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m "$memory_mb" -nodefaults -no-user-config -display none \
    -no-reboot -kernel "$kernel/boot/vmlinuz-$release" -initrd "$scratch/initramfs" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr" -serial stdio </dev/null |
    tr -d '\r' | tee "$log" | grep --line-buffered -E '^(PASS|FAIL|INFO|  )' || true
took=$((SECONDS - began))

if grep -q '^RESULT: all passed' "$log"; then
    echo "all passed in $took s"
else
    grep -E '^RESULT:' "$log" || echo "the guest gave no result in $took s; the end of $log:" && tail -n 40 "$log"
    exit 1
fi
