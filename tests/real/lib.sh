# What the end-to-end scripts share: a playground of their own, the two command lines, waiting and telling.
# Sourced; needs SKEP, the path of the program under test.

: "${SKEP:?set SKEP to the program to test}"
SKEP=$(realpath "$SKEP")
playground="${PLAYGROUND_PREFIX:-real}-$$"
failures=0
declare -A addresses hosts # by number of a node

say() { printf '%7.1f s  %s\n' "$(since "$begun")" "$*"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { print b - a }'; }
begun=$(now)

# fail WHAT...: counts a failure and goes on, so that one run tells of all of them.
fail() {
    failures=$((failures + 1))
    say "FAILED: $*"
}

# die WHAT...: a failure that leaves nothing to go on with.
die() {
    fail "$@"
    exit 1
}

# within SECONDS WHAT COMMAND...: runs the command until it succeeds; dies when the time is over.
within() {
    local seconds=$1 what=$2 start
    shift 2
    start=$(now)
    until "$@" >/dev/null 2>&1; do
        awk -v s="$(since "$start")" -v m="$seconds" 'BEGIN { exit !(s > m) }' && return_late "$what" "$seconds"
        sleep 0.05
    done
    took=$(since "$start")
}
return_late() { die "$1: not within $2 s"; }

up() {
    "$SKEP" playground up --nodes 3 --name "$playground" >"$scratch/up" || { cat "$scratch/up"; die "playground up"; }
    local number address host
    while read -r _ number address host; do
        addresses[$number]=$address
        hosts[$number]=$host
    done < <(grep '^ *node ' "$scratch/up")
    [ "${#addresses[@]}" = 3 ] || die "playground up printed ${#addresses[@]} nodes"
}

# docker_at NODE / skep_at NODE ARGUMENTS...: the unmodified docker command and our own, as clients of one node.
docker_at() { local node=$1; shift; timeout "${command_limit:-60}" docker -H "${hosts[$node]}" "$@"; }
skep_at() { local node=$1; shift; timeout "${command_limit:-60}" "$SKEP" -H "${hosts[$node]}" "$@"; }

# running SERVICE [NODE]: how many of its tasks run, as NODE knows.
running() { docker_at "${2:-1}" service ps --filter desired-state=running --format '{{.CurrentState}}' "$1" | grep -c '^Running'; }
runs() { [ "$(running "$1" "${3:-1}")" = "$2" ]; }

# node_of SERVICE [VIA]: the number of the node on which the one task of the service runs. Host names end in it.
node_of() {
    docker_at "${2:-1}" service ps --filter desired-state=running --format '{{.CurrentState}} {{.Node}}' "$1" |
        awk '$1 == "Running" { sub(/.*-/, "", $NF); print $NF }'
}

# leader VIA: the number of the node that leads, as VIA knows.
leader() { docker_at "$1" node ls --format '{{.Hostname}} {{.ManagerStatus}}' | awk '$2 == "Leader" { sub(/.*-/, "", $1); print $1 }'; }

gone() {
    for loop in "${loops[@]}"; do kill "$loop" 2>/dev/null; done
    "$SKEP" playground down --name "$playground" >/dev/null 2>&1
    rm -rf "$scratch"
}
loops=()
scratch=$(mktemp -d)
trap gone EXIT
trap 'exit 130' INT TERM
