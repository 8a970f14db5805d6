# What is checked of a node; run by busybox's shell in the guest that node.sh boots.

DAEMON_LOG=/var/log/skep.log
CGROUPS=/sys/fs/cgroup/skep
failures=0

# seconds since boot
uptime_s() { cut -d' ' -f1 /proc/uptime; }
pass() { echo "PASS $(uptime_s) $*"; }
info() { echo "INFO $(uptime_s) $*"; }
fail() {
    failures=$((failures + 1))
    echo "FAIL $(uptime_s) $*"
}

# check WHAT COMMAND...: one line with the verdict.
check() {
    local what=$1
    shift
    if "$@" >/tmp/check 2>&1; then pass "$what"; else fail "$what"; sed 's/^/  /' /tmp/check | tail -n 20; fi
}

# is WHAT WANTED FOUND
is() { if [ "$2" = "$3" ]; then pass "$1: $3"; else fail "$1: '$3', wanted '$2'"; fi; }

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    local deadline=$(($(cut -d. -f1 /proc/uptime) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$deadline" ] || return 1
        usleep 50000
    done
}

start_daemon() {
    skep daemon >>$DAEMON_LOG 2>&1 &
    daemon=$!
    within 60 skep version
}

tasks() { skep service ps "$@" 2>&1; }
runs() { tasks "$1" | grep -qE 'Running +Running'; }
# (busybox's wget crashes with -T.)
answers() { printf 'GET / HTTP/1.0\r\n\r\n' | timeout 5 nc "$1" 8080 | grep '^Task: *web\.'; }

# The cgroup of the one process whose arguments match; there is one container of each kind.
container_pid() { cat $CGROUPS/*/cgroup.procs 2>/dev/null | while read -r pid; do
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "$1" && echo "$pid" && break; done; }
cgroup_of() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }
no_groups() { ! ls -d $CGROUPS/*/ 2>/dev/null; }

# What skep has put into this host's network. Without nft the modules' counts tell: a chain of a table holds its type's
# module, a rule those of its expressions.
used() { awk -v name="$1" '$1 == name { print $3 }' /proc/modules; }
no_table() { [ "$(used nft_chain_nat)" = 0 ] && [ "$(used nft_masq)" = 0 ] && [ "$(used nft_ct)" = 0 ]; }
has_table() { [ "$(used nft_chain_nat)" -gt 0 ] && [ "$(used nft_masq)" -gt 0 ]; }
links() { ls /sys/class/net | tr '\n' ' '; }
links_are() { [ "$(links)" = "$1" ]; }

# --- the ground
modprobe dummy numdummies=0
ip link add eth0 type dummy
ip addr add 192.0.2.10/24 dev eth0
ip link set eth0 up
info "Linux $(uname -r), booted; $(nproc) processors, $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MB"
is "cgroup hierarchies" "cgroup2" "$(awk '$3 ~ /^cgroup/ { print $3 }' /proc/mounts | tr '\n' ' ' | sed 's/ $//')"
links_before=$(links)
forwarding_before=$(cat /proc/sys/net/ipv4/ip_forward)

# --- a service with limits
check "daemon answers" start_daemon
check "swarm init" skep swarm init --advertise-addr 192.0.2.10
check "service create" skep service create --name web --detach --limit-memory 64m --limit-cpu 0.5 --limit-pids 32 \
    --publish 8080:80 whoami
check "service runs" within 60 runs web
check "answers on 127.0.0.1" within 20 answers 127.0.0.1
check "answers on the node's address" within 20 answers 192.0.2.10
check "modules are loaded" has_table
info "modules: $(awk '{ print $1 }' /proc/modules | sort | tr '\n' ' ')"

web=$(container_pid whoami)
group=/sys/fs/cgroup$(cgroup_of "$web")
info "container's cgroup: $group"
is "memory.max" 67108864 "$(cat "$group/memory.max")"
is "cpu.max" "50000 100000" "$(cat "$group/cpu.max")"
is "pids.max" 32 "$(cat "$group/pids.max")"
is "controllers handed down" "cpu memory pids" "$(cat $CGROUPS/cgroup.subtree_control)"
is "the container sees its own limit" 67108864 "$(cat "/proc/$web/root/sys/fs/cgroup/memory.max")"
is "the container's root" overlay "$(awk '$5 == "/" { sub(/.* - /, ""); print $1 }' "/proc/$web/mountinfo")"

# --- an image from a tar, and a container that takes too much
check "image load" skep image load -i /busybox.tar
check "second service" skep service create --name hog --detach --limit-memory 32m --restart-condition none \
    busybox:test tail /dev/zero
killed() { tasks --no-trunc hog | grep -q 137; }
if within 90 killed; then pass "the hog is killed: $(tasks --no-trunc hog | grep -o 'task: .*137[^ ]*')"; else fail "no 137 in service ps"; fi
tasks --no-trunc hog | sed 's/^/  /'
check "the other service stays" runs web
check "service rm hog" skep service rm hog
one_group() { [ "$(ls -d $CGROUPS/*/ | wc -l)" = 1 ]; }
check "the hog's cgroup is gone" within 30 one_group

# --- more processes than the limit lets be
check "third service" skep service create --name forks --detach --stop-grace-period 1s --limit-pids 4 \
    --restart-condition none busybox:test sh -c 'sleep 99 & sleep 99 & sleep 99 & sleep 99 & sleep 99 & wait'
limited() { tasks --no-trunc forks | grep '(2)'; }
check "the pids limit holds: its shell cannot fork" within 60 limited
check "service update" skep service update --limit-pids 16 --detach forks
check "with a higher limit it runs" within 60 runs forks
check "service rm forks" skep service rm forks
check "its cgroup is gone" within 60 one_group

# --- the daemon dies
kill -9 "$daemon"
wait "$daemon" 2>/dev/null
is "after kill -9 of the daemon the container" "$group" "/sys/fs/cgroup$(cgroup_of "$web")"
check "answers without a daemon" answers 127.0.0.1
check "the daemon comes again" start_daemon
check "and knows the task as running" within 60 runs web
check "answers after that" within 20 answers 192.0.2.10
is "same process" "$web" "$(container_pid whoami)"

# --- the end
check "service rm" skep service rm web
check "no container's cgroup is left" within 30 no_groups
check "swarm leave" skep swarm leave --force
check "no link is left" within 30 links_are "$links_before"
check "no table is left" within 30 no_table
is "ip_forward" "$forwarding_before" "$(cat /proc/sys/net/ipv4/ip_forward)"
kill "$daemon"
wait "$daemon" 2>/dev/null
info "warnings of the daemon: $(grep -cE ' (WARN|ERROR) ' $DAEMON_LOG)"
grep -E ' (WARN|ERROR) ' $DAEMON_LOG | sed 's/^/  /' | tail -n 10

# --- three nodes in this one
at() { skep playground exec "$@"; }
ready() { [ "$(at 1 skep node ls | grep -c ' Ready ')" = 3 ]; }
three_run() { [ "$(at "$1" skep service ps web | grep -cE 'Running +Running')" = 3 ]; }
# Three calls in turn reach three tasks, each with the caller's own address.
three_answer() {
    [ "$(for _ in 1 2 3; do printf 'GET / HTTP/1.0\r\n\r\n' | timeout 5 nc "$1" 8080; done >/tmp/answers
        grep -c '^Client: *10.77.0.254:' /tmp/answers)" = 3 ] && [ "$(grep '^Task:' /tmp/answers | sort -u | wc -l)" = 3 ]
}
mounts_before=$(wc -l </proc/mounts)
began=$(uptime_s)
check "playground up" skep playground up --nodes 3
info "playground up took $(awk -v a="$began" '{ print $1 - a }' /proc/uptime) s"
check "three nodes are ready" within 60 ready
began=$(uptime_s)
check "service create, three replicas" at 1 skep service create --name web --detach --replicas 3 -p 8080:80 whoami
check "three tasks run" within 60 three_run 1
info "that took $(awk -v a="$began" '{ print $1 - a }' /proc/uptime) s"
for number in 1 2 3; do check "node $number answers for all tasks" within 20 three_answer "10.77.0.$number"; done
# Large segments through the TUN of a kernel that has no segmentation of UDP.
check "image load" at 1 skep image load -i /busybox.tar
check "a service on node 2" at 1 skep service create --name files --detach --constraint node.hostname==node-2 \
    -p 8081:80 busybox:test sh -c 'head -c 4000000 /dev/urandom >/tmp/file; exec httpd -f -h /tmp'
files_runs() { at 1 skep service ps files | grep -E 'Running +Running'; }
check "runs: the image came from node 1" within 60 files_runs
fetch() { rm -f /tmp/file && timeout 60 wget -O /tmp/file "http://10.77.0.$1:8081/file" && md5sum </tmp/file; }
check "a file from its own node" within 20 fetch 2
is "4 MB arrive" 4000000 "$(stat -c %s /tmp/file)"
sum=$(md5sum </tmp/file)
for number in 1 3; do
    began=$(uptime_s)
    is "the same through node $number" "$sum" "$(fetch "$number" 2>/dev/null)"
    info "that took $(awk -v a="$began" '{ print $1 - a }' /proc/uptime) s"
done

leader=$(at 1 skep node ls | sed -n 's/.*node-\([0-9]\).*Leader.*/\1/p')
left=$((leader == 1 ? 2 : 1))
began=$(uptime_s)
check "power loss of the leader, node $leader" skep playground kill "$leader"
moved() { at "$left" skep node ls | grep "node-$leader .* Down" && three_run "$left"; }
check "three tasks run on the survivors" within 60 moved
info "that took $(awk -v a="$began" '{ print $1 - a }' /proc/uptime) s"
check "node $left answers for all tasks" within 20 three_answer "10.77.0.$left"
check "playground down" skep playground down
skep playground demo >/tmp/demo 2>&1
code=$?
is "playground demo: exit code" 0 "$code"
sed 's/^/  /' /tmp/demo
is "links" "$links_before" "$(links)"
is "mounts" "$mounts_before" "$(wc -l </proc/mounts)"
is "cgroups of playgrounds" "" "$(ls -d /sys/fs/cgroup/skep-playground 2>/dev/null)"
# A keeper outlives its daemon.
leftover() { for process in /proc/[0-9]*; do tr '\0' ' ' <"$process/cmdline" | grep skep | grep -v keeper; done; }
is "processes" "" "$(leftover 2>/dev/null)"

if [ "$failures" != 0 ]; then
    echo "--- the daemon's words"
    tail -n 60 $DAEMON_LOG
    dmesg | tail -n 15
    echo "RESULT: $failures failed"
    exit 1
fi
echo "RESULT: all passed"
