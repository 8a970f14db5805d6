#!/bin/bash
# A skep node on Debian's kernels and pure cgroup v2: boots each kernel (see build.sh) and runs node-checks.sh in it.
#
#   SKEP=path/to/skep vm-images/node.sh FOLDER KERNEL-PACKAGE...
#
# SKEP must be static: the guest has nothing but busybox beside it. FOLDER keeps the images and the consoles' texts.
# Prints the guest's PASS and FAIL lines; exit code 0 says that all passed on all kernels.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
: "${SKEP:?set SKEP to the program to test}"
usage="usage: node.sh FOLDER KERNEL-PACKAGE..."
out=$(realpath -m "${1:?$usage}")
shift
[ $# -gt 0 ] || { echo "$usage" >&2; exit 2; }

# A whole run takes about two minutes on a busy two-core machine; a hung guest must not hold up everything behind it.
seconds_max=${VM_SECONDS_MAX:-600}

mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

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
tar -C "$image" -cf "$scratch/busybox.tar" manifest.json config.json layer.tar

# --- the machines
failed=0
for package in "$@"; do
    "$here/build.sh" "$package" "$out/$package"
    echo "=== Linux $(cat "$out/$package/release"), skep of $(stat -c %s "$SKEP") bytes"
    began=$SECONDS
    log=$out/$package-node.log
    code=0
    "$here/run.sh" --seconds "$seconds_max" --console "$out/$package-node.console" \
        --file "$here/node-checks.sh:/checks.sh" --file "$scratch/busybox.tar:/busybox.tar" \
        "$out/$package" sh /checks.sh |
        tee "$log" | grep --line-buffered -E '^(PASS|FAIL|INFO|  )' || code=${PIPESTATUS[0]}
    if [ "$code" = 0 ]; then
        echo "all passed in $((SECONDS - began)) s"
    else
        failed=1
        grep -E '^RESULT:' "$log" || {
            echo "the guest gave no result in $((SECONDS - began)) s; the end of $log:"
            tail -n 40 "$log"
        }
    fi
done
exit "$failed"
