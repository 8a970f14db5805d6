#!/bin/bash
# Our figures beside Docker's, measured in one run on one machine. Needs root, python3, and dockerd (Debian: docker.io)
# for the other column; without it that column stays empty. Nothing is left behind.
#
#   SKEP=path/to/skep run.sh [start] [scale] [memory] [failover] [join] [size]     all of them by default
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 1; }
exec python3 tests/bench/bench.py --skep "$(realpath "${SKEP:?set SKEP to the program to measure}")" \
    --image target/real-images/nginx-1.tar "$@"
