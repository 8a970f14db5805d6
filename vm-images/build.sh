#!/bin/bash
# Makes a virtual machine's image out of a Debian kernel package: a kernel, and an initramfs with busybox and modules.
#
#   [SKEP=path/to/skep] vm-images/build.sh KERNEL-PACKAGE FOLDER
#
# KERNEL-PACKAGE is a linux-image package that apt knows, or a metapackage that depends on one; it is fetched and
# unpacked, never installed. FOLDER gets `vmlinuz`, `initramfs` and `release` (the kernel's version), and keeps the
# unpacked package for the next time. SKEP, a static skep, becomes /bin/skep; what else a run needs is given to run.sh.
# Needs Debian's busybox-static, and neither root nor the network but for apt.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
usage="usage: build.sh KERNEL-PACKAGE FOLDER"
wanted=${1:?$usage}
out=$(realpath -m "${2:?$usage}")

# What a Debian host has and the guest may load; with all that these need. Loading is left to the kernel, as on any
# host: a module that skep needs but whose loading it does not cause is a failure that these images are to show.
modules=(
    overlay veth tun dummy bridge loop fuse virtio_pci virtio_blk
    nf_tables nft_chain_nat nft_ct nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_hash nft_limit nft_log nft_masq
    nft_nat nft_numgen nft_objref nft_redir nft_reject nft_reject_inet nft_reject_ipv4 nft_reject_ipv6 nft_socket
    nf_conntrack nf_conntrack_netlink nf_nat nfnetlink
)
# Part of nf_tables itself since Linux 6.2.
modules_if_there=(nft_objref)

for tool in apt-get dpkg-deb busybox; do
    command -v "$tool" >/dev/null || {
        echo "build.sh: $tool is missing (Debian: apt-get install busybox-static)" >&2
        exit 1
    }
done
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- the kernel: fetched when it is not there yet
package=$(apt-cache depends --important "$wanted" 2>/dev/null |
    awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
package=${package:-$wanted}
release=${package#linux-image-}
unpacked=$out/unpacked
if [ "$(cat "$out/release" 2>/dev/null)" != "$release" ]; then
    rm -rf "$unpacked" "$out/release"
    mkdir -p "$scratch/deb" "$unpacked"
    (cd "$scratch/deb" && apt-get -qq -o APT::Sandbox::User=root download "$package") || {
        echo "build.sh: apt has no package $package (apt-get update?)" >&2
        exit 1
    }
    dpkg-deb -x "$scratch"/deb/*.deb "$unpacked"
    # Kernels of 6.12 have them compressed. The guest shall not spend its time on that.
    find "$unpacked/lib/modules/$release" -name '*.ko.xz' -exec busybox unxz {} +
    busybox depmod -b "$unpacked" "$release"
    cp "$unpacked/boot/vmlinuz-$release" "$out/vmlinuz"
    echo "$release" >"$out/release"
fi

# --- the guest's files
tree=$scratch/tree
mkdir -p "$tree"/{bin,sbin,dev,etc,proc,sys,run,tmp,var/log,var/lib,root,newroot} "$tree/lib/modules/$release"
chmod 1777 "$tree/tmp"
cp "$(command -v busybox)" "$tree/bin/busybox"
install -m 755 "$here/init" "$here/command" "$tree/"
[ -z "${SKEP:-}" ] || install -m 755 "$SKEP" "$tree/bin/skep"
echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
echo 'root:x:0:' >"$tree/etc/group"

from=$unpacked/lib/modules/$release
for module in "${modules[@]}"; do
    # A line of modules.dep: the module's file, a colon, the files that it needs.
    line=$(grep -E "/$module\.ko:" "$from/modules.dep") || {
        grep -q "/$module\.ko" "$from/modules.builtin" && continue
        [[ " ${modules_if_there[*]} " = *" $module "* ]] && continue
        echo "build.sh: $package has no module $module" >&2
        exit 1
    }
    for file in ${line/:/ }; do
        mkdir -p "$tree/lib/modules/$release/$(dirname "$file")"
        cp "$from/$file" "$tree/lib/modules/$release/$file"
    done
done
cp "$from"/modules.{order,builtin,builtin.modinfo} "$tree/lib/modules/$release/"
busybox depmod -b "$tree" "$release"

# Not compressed: unpacking would be emulated too, and costs the guest more than reading.
(cd "$tree" && find . -print0 | sort -z | busybox cpio -o0 -H newc -R 0:0 2>/dev/null) >"$scratch/initramfs"
mv "$scratch/initramfs" "$out/initramfs"
