#!/bin/bash
# The runtime's tests on Debian's kernels: builds the test programs here, and runs them in virtual machines.
#
#   vm-images/runtime.sh FOLDER [KERNEL-PACKAGE[=MODE,...]...] [-- FILTER...]
#
# FOLDER keeps the images and the consoles' texts. Each kernel (see build.sh) is booted once for each of its modes: run.sh's
# cgroup modes (without any: v2), or `initramfs`, where no-pivot-checks runs instead of the tests. FILTER goes to the test programs, as with cargo test. The programs are those of the
# crates named below; they stand in the guest at the paths that they have here, beside the crates' own binaries, so what
# cargo compiles into them (CARGO_BIN_EXE_…) holds. They must be static, as .cargo/config.toml makes them.
#
# Prints the programs' words, and at the end one line a machine; exit code 0 says that all passed on all.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
usage="usage: runtime.sh FOLDER [KERNEL-PACKAGE[=MODE,...]...] [-- FILTER...]"
out=$(realpath -m "${1:?$usage}")
shift
kernels=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    kernels+=("$1")
    shift
done
[ "${1:-}" != -- ] || shift
filters=("$@")
[ ${#kernels[@]} -gt 0 ] || { echo "$usage" >&2; exit 2; }

# The crates whose tests run in the guest.
crates=(skep-runtime skep-runtime-cli)

# Pure computation, whatever the kernel, and minutes of it under emulation. (`containers` has no --skip, and lets it be.)
pure=(--skip=seccomp::tests::programs_do_what_profiles_say)

# Either is reached only by what hangs: a program, and the machine.
program_seconds_max=${VM_PROGRAM_SECONDS_MAX:-400}
seconds_max=${VM_SECONDS_MAX:-900}

began=$SECONDS
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- the programs. cargo tells of each in a line of JSON; "executable" is null for what is no program.
packages=()
for crate in "${crates[@]}"; do packages+=(-p "$crate"); done
cargo test "${packages[@]}" --no-run --message-format=json-render-diagnostics >"$scratch/built"
grep '"reason":"compiler-artifact"' "$scratch/built" | grep '"executable":"' >"$scratch/programs"
options=()
while read -r line; do
    program=$(sed 's/.*"executable":"\([^"]*\)".*/\1/' <<<"$line")
    options+=(--file "$program")
    if [[ "$line" =~ \"profile\":\{[^}]*\"test\":true\} ]]; then
        manifest=$(sed 's/.*"manifest_path":"\([^"]*\)".*/\1/' <<<"$line")
        echo "$program ${manifest%/Cargo.toml}" >>"$scratch/tests"
    fi
done <"$scratch/programs"
[ -s "$scratch/tests" ] || { echo "runtime.sh: cargo built no test programs" >&2; exit 1; }
options+=(--file "$scratch/tests:/etc/tests" --file "$here/runtime-tests:/etc/runtime-tests")
options+=(--file "$here/no-pivot-checks:/etc/no-pivot-checks")
runtime=$(sed -n 's/.*"executable":"\([^"]*\/skep-runtime\)".*/\1/p' "$scratch/programs" | head -n 1)
# A race needs processors that work at the same time, which the emulator's do not: rounds enough to see both of its ends.
options+=(--env SKEP_ATTACK_ROUNDS=40)
options+=(--seconds "$seconds_max" --env "PROGRAM_SECONDS_MAX=$program_seconds_max")
# Some tests compare with these, where they are.
peers=()
for peer in runc crun; do
    if path=$(command -v "$peer"); then
        options+=(--with-program "$path")
        peers+=("$path")
    fi
done
echo "built in $((SECONDS - began)) s"

# --- the machines
failed=0
summary=()
for kernel in "${kernels[@]}"; do
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
        kind=(--cgroup "$mode")
        checks=(/etc/runtime-tests "${pure[@]}" "${filters[@]}")
        if [ "$mode" = initramfs ]; then
            kind=(--initramfs)
            checks=(/etc/no-pivot-checks "$runtime" "${peers[@]}")
        fi
        "$here/run.sh" "${kind[@]}" --console "$out/$package-$mode.console" "${options[@]}" "$image" \
            sh "${checks[@]}" | tee "$scratch/said" || code=$?
        result=$(sed -n 's/^RESULT: //p' "$scratch/said")
        summary+=("$name: ${result:-no result}, $((SECONDS - began)) s")
        [ "$code" = 0 ] || failed=1
    done
done
printf '%s\n' "--- all machines" "${summary[@]}"
exit "$failed"
