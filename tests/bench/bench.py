"""Measures skep beside Docker over the same API with the same image (nginx:one), and prints a table.

Both sides are asked over their own socket with one kept connection, so that no command line's start or polling is in
the figures. A time ends when the manager's task list says "running".
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

POLL = 0.003  # s between two looks at the task list
LIMIT = 90  # s after which a wait is given up
IMAGE = "nginx:one"
KINDS = ("RSS", "PSS", "anonymous")  # what `memory` counts


class Api:
    """One kept connection to a daemon's socket."""

    class _Unix(http.client.HTTPConnection):
        def __init__(self, path, timeout):
            super().__init__("localhost", timeout=timeout)
            self.path = path

        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self.path)

    def __init__(self, path, timeout=60):
        self.path, self.timeout, self.connection = path, timeout, None

    def call(self, method, path, body=None, raw=None):
        if self.connection is None:
            self.connection = self._Unix(self.path, self.timeout)
        data = raw if raw is not None else json.dumps(body) if body is not None else None
        kind = "application/x-tar" if raw is not None else "application/json"
        try:
            self.connection.request(method, "/v1.41" + path, data, {"Content-Type": kind})
            reply = self.connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException):
            self.connection = None
            raise
        if reply.status >= 400:
            raise RuntimeError(f"{method} {path}: {reply.status} {text[:300]!r}")
        try:
            return json.loads(text) if text else None
        except ValueError:
            return text

    def load(self, tar):
        with open(tar, "rb") as file:
            self.call("POST", "/images/load?quiet=1", raw=file.read())

    def create(self, name, replicas, image=IMAGE, port=None):
        spec = {
            "Name": name,
            "TaskTemplate": {"ContainerSpec": {"Image": image}},
            "Mode": {"Replicated": {"Replicas": replicas}},
        }
        if port:
            spec["EndpointSpec"] = {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": port, "PublishMode": "ingress"}]}
        return self.call("POST", "/services/create", spec)["ID"]

    def scale(self, service, replicas):
        found = self.call("GET", f"/services/{service}")
        spec = found["Spec"]
        spec["Mode"]["Replicated"]["Replicas"] = replicas
        self.call("POST", f"/services/{service}/update?version={found['Version']['Index']}", spec)

    def running(self, service):
        wanted = urllib.parse.quote(json.dumps({"service": [service], "desired-state": ["running"]}))
        return [t for t in self.call("GET", f"/tasks?filters={wanted}") or [] if t["Status"]["State"] == "running"]

    def remove(self, service, daemon):
        self.call("DELETE", f"/services/{service}")
        until(lambda: not daemon.containers(), "the containers are gone")


def until(condition, what, limit=LIMIT, poll=POLL):
    """Seconds until the condition holds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            raise RuntimeError(f"{what}: not within {limit} s")
        time.sleep(poll)
    return time.monotonic() - start


def processes():
    """(pid, parent, command line) of every process."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/cmdline") as line:
                parent = int(stat.read().rsplit(")", 1)[1].split()[1])
                yield int(entry), parent, [word for word in line.read().split("\0") if word]


def memory(pids):
    """(RSS, PSS, anonymous) in MiB of all of them together; RSS counts pages of shared files once for each process."""
    rss = pss = anonymous = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            for row in file:
                if row.startswith("Rss:"):
                    rss += int(row.split()[1])
                elif row.startswith("Pss:"):
                    pss += int(row.split()[1])
                elif row.startswith("Anonymous:"):
                    anonymous += int(row.split()[1])
    return rss / 1024, pss / 1024, anonymous / 1024


class Skep:
    """A playground of our own."""

    def __init__(self, program, nodes, swarm=True):
        self.program, self.name = program, f"bench-{os.getpid()}"
        self.up_took = -time.monotonic()
        try:
            text = self._playground("up", "--nodes", str(nodes), *([] if swarm else ["--no-swarm"]))
        except Exception:
            self.close()
            raise
        self.up_took += time.monotonic()
        rows = [row.split() for row in text.splitlines() if row.strip().startswith("node ")]
        self.addresses = {int(row[1]): row[2] for row in rows}
        self.sockets = {int(row[1]): row[3].removeprefix("unix://") for row in rows}
        self.api = Api(self.sockets[1])

    def _playground(self, verb, *arguments):
        with tempfile.TemporaryFile("w+") as out:
            command = [self.program, "playground", verb, "--name", self.name, *arguments]
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=LIMIT).returncode
            out.seek(0)
            text = out.read()
        if status:
            raise RuntimeError(f"playground {verb}: {text}")
        return text

    def kill(self, node):
        self._playground("kill", str(node))

    def pids(self, which=("daemon", "keeper")):
        mark = f"/{self.name}/"
        return [p for p, _, line in processes() if len(line) > 1 and line[1] in which and any(mark in word for word in line)]

    def containers(self):
        """Processes whose parent is a keeper of ours, but for a daemon that it started again."""
        keepers, own = set(self.pids(("keeper",))), set(self.pids())
        return [p for p, parent, _ in processes() if parent in keepers and p not in own]

    def close(self):
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self._playground("down")


class Docker:
    """A dockerd of Debian's in a network of its own, with nobody to ask for names."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="skep-bench-")
        self.cgroup = f"skep-bench-{os.getpid()}"
        sock = f"{self.folder}/sock"
        with open(f"{self.folder}/resolv.conf", "w") as file:
            file.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        script = f"""set -e
            mount --make-rprivate /
            mount --bind {self.folder}/resolv.conf /etc/resolv.conf
            ip link set lo up
            ip link add eth0 type veth peer name eth0-peer
            ip addr add 10.99.0.1/24 dev eth0
            ip link set eth0 up; ip link set eth0-peer up
            exec dockerd --data-root {self.folder}/data --exec-root {self.folder}/exec -H unix://{sock} \
                --pidfile {self.folder}/pid --cgroup-parent /{self.cgroup}"""
        self.log = open(f"{self.folder}/log", "w")
        self.process = subprocess.Popen(["unshare", "--net", "--mount", "bash", "-c", script], stdout=self.log, stderr=self.log, start_new_session=True)
        self.api = Api(sock)

        def answers():
            if self.process.poll() is not None:
                with open(f"{self.folder}/log") as log:
                    raise RuntimeError("dockerd ended: " + log.read()[-2000:])
            with contextlib.suppress(OSError):
                self.api.call("GET", "/version")
                return True
            return False

        try:
            until(answers, "dockerd answers", 40, 0.05)
        except RuntimeError:
            self.close()
            raise

    def swarm(self):
        start = time.monotonic()
        self.api.call("POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "10.99.0.1", "DataPathAddr": "10.99.0.1"})
        until(lambda: any(n["Status"]["State"] == "ready" for n in self.api.call("GET", "/nodes")), "the node is ready")
        return time.monotonic() - start

    def _family(self):
        table = list(processes())
        family = {self.process.pid}
        for _ in range(6):
            family |= {p for p, parent, _ in table if parent in family}
        # Shims leave their parents; their command line names our containerd.
        family |= {p for p, _, line in table if any(self.folder in word for word in line)}
        return [(p, parent, line) for p, parent, line in table if p in family]

    def pids(self):
        names = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2", "docker-proxy")
        return [p for p, _, line in self._family() if line and os.path.basename(line[0]) in names]

    def containers(self):
        return self.api.call("GET", "/containers/json?all=1")

    def close(self):
        with contextlib.suppress(Exception):
            self.api.call("POST", "/swarm/leave?force=1")
        shims = [p for p, _, line in self._family() if line and "shim" in line[0]]
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        left = [p for p, _, line in self._family() if line] if self.process.poll() is None else shims
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.log.close()
        time.sleep(0.2)
        shutil.rmtree(self.folder, ignore_errors=True)
        for top in ("/sys/fs/cgroup", *(f"/sys/fs/cgroup/{each}" for each in os.listdir("/sys/fs/cgroup"))):
            for path, _, _ in os.walk(f"{top}/{self.cgroup}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


rows = []


def row(what, ours, theirs, unit, target="", digits=0):
    """Adds a line. `theirs` None: not measured here. Lower is better everywhere."""

    def text(value):
        return "-" if value is None else value if isinstance(value, str) else f"{value:.{digits}f} {unit}"

    ratio = f"{theirs / ours:.1f} x" if isinstance(theirs, float) and isinstance(ours, float) and ours > 0 else ""
    rows.append((what, text(ours), text(theirs), ratio, target))
    print(f"  {what}: {text(ours)} | {text(theirs)} {ratio}", file=sys.stderr)


def start_time(daemon, count=10):
    times = []
    for i in range(count + 1):
        begun = time.monotonic()
        service = daemon.api.create(f"one-{i}", 1)
        until(lambda: daemon.api.running(service), "1 of 1 runs")
        times.append((time.monotonic() - begun) * 1000)
        daemon.api.remove(service, daemon)
    return times[1:]  # the first pays for unpacking


def scale_time(daemon, count=3):
    times = []
    for i in range(count):
        service = daemon.api.create(f"many-{i}", 1)
        until(lambda: daemon.api.running(service), "1 of 1 runs")
        begun = time.monotonic()
        daemon.api.scale(service, 30)
        until(lambda: len(daemon.api.running(service)) == 30, "30 of 30 run")
        times.append(time.monotonic() - begun)
        daemon.api.remove(service, daemon)
    return times


def memory_use(daemon, containers=20):
    """The growth for each running container, as `memory` counts it."""
    service = daemon.api.create("grow", 1)
    until(lambda: daemon.api.running(service), "1 of 1 runs")
    time.sleep(2)
    one = memory(daemon.pids())
    daemon.api.scale(service, containers + 1)
    until(lambda: len(daemon.api.running(service)) == containers + 1, "all run")
    time.sleep(2)
    many = memory(daemon.pids())
    daemon.api.remove(service, daemon)
    return tuple((b - a) / containers for a, b in zip(one, many))


def both(arguments, measure, **options):
    """The measurement on a fresh single node of each kind."""
    results = []
    for make in (lambda: Skep(arguments.skep, 1), docker_node if arguments.docker else None):
        if make is None:
            results.append(None)
            continue
        daemon = make()
        try:
            idle_before_image = memory(daemon.pids()) if options.get("idle") else None
            daemon.api.load(arguments.image)
            results.append((idle_before_image, measure(daemon)))
        finally:
            daemon.close()
    return results


def docker_node():
    daemon = Docker()
    try:
        daemon.init_took = daemon.swarm()
        time.sleep(2)
    except Exception:
        daemon.close()
        raise
    return daemon


def start(arguments):
    ours, theirs = both(arguments, start_time)
    row("service create, 1 replica, to Running (median of 10)", statistics.median(ours[1]), statistics.median(theirs[1]) if theirs else None, "ms", "< 150 ms")
    row("  slowest of 10", max(ours[1]), max(theirs[1]) if theirs else None, "ms")


def scale(arguments):
    ours, theirs = both(arguments, scale_time)
    row("1 to 30 replicas, one node (median of 3)", statistics.median(ours[1]), statistics.median(theirs[1]) if theirs else None, "s", "< 2 s", 2)
    cluster = Skep(arguments.skep, 3)
    try:
        cluster.api.load(arguments.image)
        spread = cluster.api.create("spread", 3)  # brings the image to every node
        until(lambda: len(cluster.api.running(spread)) == 3, "3 of 3 run")
        cluster.api.remove(spread, cluster)
        ones, many = start_time(cluster), scale_time(cluster)
    finally:
        cluster.close()
    row("service create, three nodes (median of 10)", statistics.median(ones), None, "ms", "< 150 ms")
    row("1 to 30 replicas, three nodes (median of 3)", statistics.median(many), None, "s", "< 2 s", 2)


def memory_rows(arguments):
    ours, theirs = both(arguments, memory_use, idle=True)
    for place, name in enumerate(KINDS):
        row(f"idle node, {name}", ours[0][place], theirs[0][place] if theirs else None, "MiB", "< 30 MiB", 1)
    for place, name in enumerate(KINDS):
        row(f"each running container, {name}", ours[1][place], theirs[1][place] if theirs else None, "MiB", "< 1 MiB", 2)


class Requests(threading.Thread):
    """Asks two addresses in turn, a new connection each, and notes when one failed."""

    def __init__(self, addresses, port):
        super().__init__(daemon=True)
        self.addresses, self.port, self.over, self.count, self.failed = addresses, port, False, 0, []

    def run(self):
        while not self.over:
            address = self.addresses[self.count % len(self.addresses)]
            self.count += 1
            begun = time.monotonic()
            try:
                connection = http.client.HTTPConnection(address, self.port, timeout=1)
                connection.request("GET", "/")
                if connection.getresponse().status != 200:
                    raise OSError("status")
                connection.close()
            except (OSError, http.client.HTTPException):
                self.failed.append(begun)
            time.sleep(0.005)


def failover(arguments, count=5):
    led, whole, lost, asked = [], [], [], []
    for _ in range(count):
        cluster = Skep(arguments.skep, 3)
        try:
            service = cluster.api.create("web", 3, "whoami", 8080)
            until(lambda: len({t["NodeID"] for t in cluster.api.running(service)}) == 3, "3 of 3 run")
            nodes = cluster.api.call("GET", "/nodes")
            dead = next(n for n in nodes if n.get("ManagerStatus", {}).get("Leader"))
            number = int(dead["Description"]["Hostname"].rsplit("-", 1)[1])
            survivors = [n for n in cluster.addresses if n != number]
            watch = Api(cluster.sockets[survivors[0]], timeout=5)
            requests = Requests([cluster.addresses[n] for n in survivors], 8080)
            requests.start()
            until(lambda: requests.count > 100, "requests are under way")
            if requests.failed:
                raise RuntimeError("requests failed before anything was taken away")
            begun = time.monotonic()
            cluster.kill(number)

            def new_leader():
                with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                    return any(n.get("ManagerStatus", {}).get("Leader") and n["ID"] != dead["ID"] for n in watch.call("GET", "/nodes"))

            def all_run():
                with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                    return len([t for t in watch.running(service) if t["NodeID"] != dead["ID"]]) == 3

            until(new_leader, "a new leader")
            led.append(time.monotonic() - begun)
            until(all_run, "3 of 3 run on the survivors")
            whole.append(time.monotonic() - begun)
            time.sleep(1)
            requests.over = True
            requests.join()
            lost.append(len(requests.failed))
            asked.append(requests.count)
        finally:
            cluster.close()

    def spread(values):
        return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f} s"

    row(f"leader killed: new leader (min/median/max of {count})", spread(led), "12 s (earlier, three VMs)", "", "< 3 s")
    row("leader killed: 3/3 on the survivors", spread(whole), "46 s (earlier, three VMs)", "", "< 6 s")
    row("  requests through survivors that failed meanwhile", " ".join(f"{a}/{b}" for a, b in zip(lost, asked)), None, "")


def join(arguments, count=5):
    inits, joins, up = [], [], []
    for _ in range(count):
        cluster = Skep(arguments.skep, 3, swarm=False)
        try:
            begun = time.monotonic()
            cluster.api.call("POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": cluster.addresses[1]})
            inits.append((time.monotonic() - begun) * 1000)
            token = cluster.api.call("GET", "/swarm")["JoinTokens"]["Manager"]
            for node in (2, 3):
                begun = time.monotonic()
                Api(cluster.sockets[node]).call("POST", "/swarm/join", {
                    "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": cluster.addresses[node],
                    "RemoteAddrs": [cluster.addresses[1] + ":2377"], "JoinToken": token})
                joins.append((time.monotonic() - begun) * 1000)
        finally:
            cluster.close()
        cluster = Skep(arguments.skep, 3)
        up.append(cluster.up_took)
        cluster.close()
    theirs = None
    if arguments.docker:
        daemon = docker_node()
        theirs = daemon.init_took * 1000
        daemon.close()
    row(f"swarm init (median of {count}; Docker: one)", statistics.median(inits), theirs, "ms")
    row(f"swarm join as manager (median of {2 * count})", statistics.median(joins), None, "ms")
    row(f"playground up, three managers (median of {count})", statistics.median(up), None, "s", digits=2)


def size(arguments):
    docker = [shutil.which(p) for p in ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-proxy", "docker")]
    theirs = sum(os.path.getsize(os.path.realpath(p)) for p in docker if p) / 1e6 if arguments.docker else None
    row("size of the programs", os.path.getsize(arguments.skep) / 1e6, theirs, "MB")
    linked = subprocess.run(["ldd", arguments.skep], capture_output=True, text=True)
    row("ldd says", (linked.stdout + linked.stderr).strip().splitlines()[0].replace(arguments.skep, "").strip(": \t"), None, "")


def main():
    parts = {"size": size, "start": start, "scale": scale, "memory": memory_rows, "failover": failover, "join": join}
    parser = argparse.ArgumentParser()
    parser.add_argument("--skep", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("parts", nargs="*", choices=[*parts, []])
    arguments = parser.parse_args()
    arguments.docker = shutil.which("dockerd") is not None
    if not arguments.docker:
        print("dockerd is not here: its column stays empty (Debian: apt-get install docker.io)", file=sys.stderr)
    failed = []
    for name in arguments.parts or parts:
        print(f"{name} …", file=sys.stderr)
        try:
            parts[name](arguments)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(f"{name}: {error}")
            print(f"  {error}", file=sys.stderr)
    heads = ("", "skep", "Docker", "ratio", "target")
    widths = [max(len(str(line[i])) for line in [heads, *rows]) for i in range(len(heads))]
    load = os.getloadavg()[0]
    print(f"\n{os.cpu_count()} cores, load {load:.1f}, kernel {os.uname().release}")
    for line in [heads, tuple("-" * w for w in widths), *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(line, widths)).rstrip())
    for line in failed:
        print("FAILED", line)
    sys.exit(1 if failed else 0)


main()
