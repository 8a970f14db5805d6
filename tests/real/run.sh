#!/bin/bash
# Real software on a cluster of three: nginx, redis and dnsmasq from Debian's packages, driven by the unmodified docker
# command and by our own, with data sent and read back through every node. Needs root, docker (the client), curl,
# redis-cli, dig, and what images.sh needs. Leaves nothing behind but the packed images.
#
#   SKEP=path/to/skep run.sh [FOLDER_OF_IMAGES]
set -uo pipefail
here=$(realpath "$(dirname "$0")")
[ "$(id -u)" = 0 ] || { echo "run.sh: needs root" >&2; exit 1; }
for tool in docker curl redis-cli dig sha256sum; do
    command -v "$tool" >/dev/null || { echo "run.sh: $tool is missing" >&2; exit 1; }
done
images=$(realpath -m "${1:-$here/../../target/real-images}")
"$here/images.sh" "$images" || exit 1
. "$here/lib.sh"

get() { curl -sS --max-time 5 "$@"; }
service() { docker_at 1 service create --quiet --detach=false "$@" >"$scratch/create" 2>&1 || { cat "$scratch/create"; die "service create $*"; }; }

# ---------------------------------------------------------------- a cluster, and images on one node only
up
say "three nodes: ${addresses[*]}"
docker_at 1 load -i "$images/nginx-1.tar" >/dev/null || die "docker load of a docker-archive"
docker_at 1 load -i "$images/redis.tar" >/dev/null || die "docker load of an OCI layout"
skep_at 1 load -i "$images/nginx-2.tar" >/dev/null || die "skep load of a docker-archive"
skep_at 1 load -i "$images/dnsmasq.tar" >/dev/null || die "skep load of an OCI layout"
for image in nginx:one nginx:two redis:7 dnsmasq:2; do
    docker_at 1 image ls --format '{{.Repository}}:{{.Tag}}' | grep -qx "$image" || fail "docker image ls on node 1 lacks $image"
    docker_at 2 image ls --format '{{.Repository}}:{{.Tag}}' | grep -qx "$image" && fail "node 2 has $image before it needs it"
done
say "images loaded on node 1 alone, from both formats, with both commands"

# ---------------------------------------------------------------- nginx
service --name web --replicas 3 --publish 8080:80 nginx:one
runs web 3 || fail "docker service create came back, but not all of web runs"
nodes=$(docker_at 1 service ps --filter desired-state=running --format '{{.Node}}' web | sort -u | wc -l)
[ "$nodes" = 3 ] || fail "web's three tasks run on $nodes node(s)"
say "nginx runs on three nodes; two fetched the image from another"

digest=$(cat "$images/blob.sha256")
for node in 1 2 3; do
    page=$(get "http://${addresses[$node]}:8080/") || fail "nginx's page through node $node"
    [ "$page" = "version one" ] || fail "nginx's page through node $node is '$page'"
    for _ in 1 2 3; do # so that near and far tasks take part
        sum=$(get --max-time 20 "http://${addresses[$node]}:8080/blob.bin" | sha256sum | cut -d' ' -f1)
        [ "$sum" = "$digest" ] || fail "8 MB through node $node came out different"
    done
done
say "pages and 8 MB files are right through every node"

: >"$scratch/who"
lost=0
for i in $(seq 300); do
    get "http://${addresses[$((i % 3 + 1))]}:8080/who" >>"$scratch/who" || lost=$((lost + 1))
done
[ "$lost" = 0 ] || fail "$lost of 300 requests over the three nodes failed"
tasks=$(cut -d' ' -f1 "$scratch/who" | sort -u | wc -l)
clients=$(cut -d' ' -f2 "$scratch/who" | sort -u)
[ "$tasks" = 3 ] || fail "$tasks nginx answered 300 requests, not 3"
own=$(sed 's/[0-9]*$/254/' <<<"${addresses[1]}") # this machine on the playground's network
[ "$clients" = "$own" ] || fail "nginx saw the clients '$clients', not $own"
say "300 requests over three nodes: $lost failed, $tasks tasks answered, client seen as ${clients//$'\n'/ }"

# ---------------------------------------------------------------- dnsmasq, over UDP
service --name names --replicas 3 --publish 5353:53/udp dnsmasq:2
lost=0
for i in $(seq 60); do
    answer=$(dig +short +tries=1 +time=2 -p 5353 "@${addresses[$((i % 3 + 1))]}" "host$i.skep.test" A)
    [ "$answer" = 192.0.2.7 ] || lost=$((lost + 1))
done
[ "$lost" = 0 ] || fail "$lost of 60 questions over UDP had no answer"
say "dnsmasq answers over UDP through every node: $lost of 60 questions lost"
docker_at 1 service rm names >/dev/null || fail "service rm names"

# ---------------------------------------------------------------- redis, three replicas: three separate stores behind one port
redis() { local node=$1; shift; timeout 5 redis-cli -h "${addresses[$node]}" -p 6379 "$@"; }
answers() { [ "$(redis "$1" ping)" = PONG ]; }
service --name kv --replicas 3 --publish 6379:6379 redis:7
for i in $(seq 60); do redis "$((i % 3 + 1))" info server | grep ^run_id; done | sort | uniq -c >"$scratch/ids"
[ "$(wc -l <"$scratch/ids")" = 3 ] || fail "60 connections met $(wc -l <"$scratch/ids") redis, not 3"
say "redis, three replicas: 60 connections met $(awk '{ printf "%s%s", NR == 1 ? "" : "+", $1 }' "$scratch/ids")"

# ---------------------------------------------------------------- redis, one replica: a write through one node is read through all
docker_at 3 service scale kv=1 >/dev/null || fail "docker service scale kv=1"
for writer in 1 2 3; do
    redis "$writer" set "from-$writer" "written through node $writer" >/dev/null || fail "redis SET through node $writer"
    head -c 2000000 "$images/redis.tar" | redis "$writer" -x set "big-$writer" >/dev/null || fail "redis SET of 2 MB through node $writer"
done
expected=$(head -c 2000000 "$images/redis.tar" | md5sum)
for reader in 1 2 3; do
    for writer in 1 2 3; do
        value=$(redis "$reader" get "from-$writer")
        [ "$value" = "written through node $writer" ] || fail "redis through node $reader: from-$writer is '$value'"
        [ "$(redis "$reader" get "big-$writer" | head -c 2000000 | md5sum)" = "$expected" ] || fail "2 MB written through $writer came back different through $reader"
    done
done
say "redis: data and 2 MB values written through each node are read through every other"

# its node dies: it comes back elsewhere (every node has the image by now; had only the dead node had it, none could)
victim=$(node_of kv)
[ -n "$victim" ] || die "nobody knows where redis runs"
via=$((victim % 3 + 1)) other=$(((victim + 1) % 3 + 1))
"$SKEP" playground kill --name "$playground" "$victim" >/dev/null || fail "playground kill $victim"
elsewhere() { local at; at=$(node_of kv "$via"); [ -n "$at" ] && [ "$at" != "$victim" ]; }
within 20 "redis runs elsewhere after node $victim died" elsewhere
moved=$took
within 10 "redis answers through node $via" answers "$via"
within 10 "redis answers through node $other" answers "$other"
say "node $victim, which ran redis, lost its power: redis ran on node $(node_of kv "$via") after $moved s and answers through both survivors"
redis "$via" set again yes >/dev/null && [ "$(redis "$other" get again)" = yes ] || fail "redis after the move: written through $via, not read through $other"
within 20 "web is 3/3 on the survivors" runs web 3 "$via"
"$SKEP" playground start --name "$playground" "$victim" >/dev/null || fail "playground start $victim"
within 20 "redis answers through node $victim after it booted again" answers "$victim"
ready() { [ "$(docker_at "$via" node ls --format '{{.Status}}' | grep -c '^Ready')" = 3 ]; }
within 20 "all three nodes are ready again" ready
say "node $victim booted again, and serves"

docker_at "$via" service rm kv >/dev/null || fail "service rm kv"
refused() { ! redis 1 ping; }
within 10 "6379 is closed after service rm" refused

# ---------------------------------------------------------------- nginx: a rolling update under requests
ask_always() { # new connections through node $1 until the stop file exists; one line each: time, status or "failed", version
    local code
    while [ ! -e "$scratch/stop" ]; do
        if page=$(curl -sS --max-time 5 -w ' %{http_code}' "http://${addresses[$1]}:8080/" 2>&1); then code=${page##* }; else code=failed; fi
        echo "$(now) $code $1 ${page//$'\n'/ }"
    done
}
for node in 1 2 3; do ask_always "$node" >"$scratch/loop-$node" & loops+=($!); done
asked() { [ "$(wc -l <"$scratch/loop-3")" -gt 20 ]; }
within 10 "the request loops are under way" asked
start=$(now)
docker_at 2 service update --quiet --image nginx:two web >"$scratch/update" 2>&1 || { tail -3 "$scratch/update"; fail "docker service update --image"; }
update_took=$(since "$start")
all_two() { for node in 1 2 3; do for _ in 1 2 3 4; do [ "$(get "http://${addresses[$node]}:8080/")" = "version two" ] || return 1; done; done; }
within 10 "every node serves version two" all_two
touch "$scratch/stop"
wait "${loops[@]}"
loops=()
cat "$scratch"/loop-* >"$scratch/all"
bad=$(awk '$2 != 200' "$scratch/all" | wc -l)
[ "$bad" = 0 ] || { fail "$bad of $(wc -l <"$scratch/all") requests failed during a rolling update"; awk '$2 != 200' "$scratch/all" | sort -n | head -10; }
say "rolling update of nginx: docker returned after $update_took s; $(wc -l <"$scratch/all") requests, $bad failed"
image=$(docker_at 3 service ps --filter desired-state=running --format '{{.Image}}' web | sort -u)
[ "$image" = nginx:two ] || fail "after the update web's tasks run '$image'"

docker_at 3 service rm web >/dev/null || fail "service rm web"
none() { [ -z "$(docker_at 1 service ls -q)" ]; }
within 10 "no service is left" none

[ "$failures" = 0 ] || { say "$failures failed"; exit 1; }
say "all real-software tests passed"
