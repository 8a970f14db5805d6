#!/bin/bash
# A swarm whose CA is somebody else's: a real cfssl signs the nodes' certificates, over HTTPS with client certificates.
# Driven by the unmodified docker command. Needs root, docker (the client), cfssl and cfssljson.
#
#   SKEP=path/to/skep cfssl.sh
set -uo pipefail
here=$(realpath "$(dirname "$0")")
[ "$(id -u)" = 0 ] || { echo "cfssl.sh: needs root" >&2; exit 1; }
for tool in docker cfssl cfssljson curl openssl; do
    command -v "$tool" >/dev/null || { echo "cfssl.sh: $tool is missing" >&2; exit 1; }
done
PLAYGROUND_PREFIX=cfssl
. "$here/lib.sh"

up
machine=$(sed 's/[0-9]*$/254/' <<<"${addresses[1]}") # this machine on the playground's network
docker_at 1 service create --quiet --detach=false --name web --replicas 3 --publish 8080:80 whoami >/dev/null ||
    die "service create"

# ---------------------------------------------------------------- the CA, and a certificate for its own server
cd "$scratch" || exit 1
cat >ca.json <<<'{"CN":"somebody elses CA","key":{"algo":"ecdsa","size":256},"ca":{"expiry":"87600h"}}'
cat >server.json <<<"{\"CN\":\"signer\",\"hosts\":[\"$machine\"],\"key\":{\"algo\":\"ecdsa\",\"size\":256}}"
cat >config.json <<<'{"signing":{"default":{"expiry":"2160h","usages":["signing","key encipherment","server auth","client auth"]}}}'
{
    cfssl gencert -initca ca.json | cfssljson -bare ca
    cfssl gencert -ca ca.pem -ca-key ca-key.pem -config config.json server.json | cfssljson -bare server
} 2>/dev/null
[ -s server.pem ] || die "cfssl made no certificates"
cfssl serve -address "$machine" -port 8888 -ca ca.pem -ca-key ca-key.pem -config config.json \
    -tls-cert server.pem -tls-key server-key.pem >cfssl.log 2>&1 &
loops+=($!)
within 10 "cfssl answers" curl -s --cacert ca.pem "https://$machine:8888/"
url=https://$machine:8888/api/v1/cfssl/sign

# ---------------------------------------------------------------- to the external CA, under calls
: >lost
(while :; do
    for address in "${addresses[@]}"; do curl -s --max-time 3 -o /dev/null "http://$address:8080/" || echo "$address" >>lost; done
done) &
loops+=($!)
docker_at 1 swarm ca --rotate --detach --ca-cert ca.pem --external-ca "protocol=cfssl,url=https://$machine:9/none" >refused 2>&1 &&
    fail "a CA that does not answer was taken"
docker_at 1 swarm ca --rotate --quiet --ca-cert ca.pem --external-ca "protocol=cfssl,url=$url" >rotated 2>&1 ||
    { cat rotated cfssl.log; die "the change to the external CA"; }
docker_at 2 swarm ca >now.pem
openssl x509 -in now.pem -noout -fingerprint >a && openssl x509 -in ca.pem -noout -fingerprint >b
cmp -s a b || fail "the swarm's CA is not cfssl's"
signed=$(grep -c 'signed certificate' cfssl.log)
[ "$signed" -ge 3 ] || fail "cfssl signed $signed certificates, not one for each node"
say "three nodes have certificates by cfssl ($signed signed)"

# ---------------------------------------------------------------- a node that joins, and a change of role
docker_at 3 swarm leave --force >/dev/null || fail "leave"
token=$(docker_at 1 swarm join-token -q worker)
docker_at 3 swarm join --token "$token" "${addresses[1]}:2377" >/dev/null || fail "join with cfssl's CA"
[ "$(grep -c 'signed certificate' cfssl.log)" -gt "$signed" ] || fail "the node joined with a certificate of somebody else"
within 10 "four entries, three ready" eval '[ "$(docker_at 1 node ls --format "{{.Status}}" | grep -c Ready)" = 3 ]'
docker_at 1 node promote "$(docker_at 3 info --format '{{.Swarm.NodeID}}')" >/dev/null || fail "promote"
within 15 "three managers" eval '[ "$(docker_at 1 node ls --format "{{.ManagerStatus}}" | grep -cE "Leader|Reachable")" = 3 ]'
say "a node joined and was promoted"

# ---------------------------------------------------------------- and back to a CA of the swarm's own
old=$(docker_at 1 node ls --filter role=worker --format '{{.ID}}')
[ -z "$old" ] || docker_at 1 node rm --force $old >/dev/null
docker_at 1 swarm ca --rotate --quiet >rotated 2>&1 || { cat rotated; fail "the change to a CA of the swarm's own"; }
docker_at 2 swarm ca >now.pem
openssl x509 -in now.pem -noout -subject | grep -q swarm-ca || fail "the swarm's CA is $(openssl x509 -in now.pem -noout -subject)"
within 10 "all ready" eval '[ "$(docker_at 1 node ls --format "{{.Status}}" | grep -c Ready)" = 3 ]'
# Node 3 left in between, so calls to its own address may have failed then; all others must have gone well.
elsewhere=$(grep -cvxF "${addresses[3]}" lost)
[ "$elsewhere" = 0 ] || fail "$elsewhere calls to nodes that stayed were lost"
say "calls meanwhile: none lost to nodes that stayed; $(wc -l <lost) to the one that left and came back"

# ---------------------------------------------------------------- a swarm that has an external CA from the start
docker_at 3 swarm leave --force >/dev/null || fail "leave"
docker_at 3 swarm init --external-ca "protocol=cfssl,url=$url,cacert=$PWD/ca.pem" >made 2>&1 || { cat made; fail "init --external-ca"; }
docker_at 3 swarm ca >now.pem
openssl x509 -in now.pem -noout -fingerprint >a
cmp -s a b || fail "the new swarm's CA is not cfssl's"
say "a swarm began with cfssl's CA"

[ "$failures" = 0 ] || exit 1
say "all is well"
