#!/usr/bin/env python3
"""Every command and flag of the groups `swarm` and `node`, by our own command line and by the unmodified docker command.

Each flag is judged by what it changes, read from the API, and not by what the command prints. Needs root, docker (the
client) and openssl.

    SKEP=path/to/skep commands.py [skep] [docker]        both by default
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

SKEP = os.path.realpath(os.environ["SKEP"])
NAME = f"commands-{os.getpid()}"
PATIENCE = 60


class Failed(Exception):
    """What was expected did not happen."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            found = condition()
        except (OSError, http.client.HTTPException, KeyError, IndexError, Failed):
            found = None
        if found:
            return found
        check(time.monotonic() < deadline, f"waited in vain: {what}")
        time.sleep(0.05)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Cluster:
    """Three hosts, and one of the two programs to command them with."""

    def __init__(self, program):
        self.program = program

    def __enter__(self):
        subprocess.run([SKEP, "playground", "up", "--name", NAME, "--nodes", "3", "--no-swarm"], check=True,
                       stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        subprocess.run([SKEP, "playground", "down", "--name", NAME], check=True, stdout=subprocess.DEVNULL)

    def socket(self, number):
        return f"/run/skep-playground/{NAME}/{number}/skep.sock"

    def run(self, number, *arguments, stdin=""):
        program = SKEP if self.program == "skep" else "docker"
        command = [SKEP, "playground", "exec", "--name", NAME, str(number), program, *arguments]
        return subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=120)

    def ok(self, number, *arguments, stdin=""):
        done = self.run(number, *arguments, stdin=stdin)
        check(done.returncode == 0, f"{self.program} {' '.join(arguments)}: {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def refused(self, number, words, *arguments, stdin=""):
        done = self.run(number, *arguments, stdin=stdin)
        said = done.stderr + done.stdout
        check(done.returncode == 1, f"{self.program} {' '.join(arguments)} ended with {done.returncode}, not 1: {said}")
        check(words.lower() in said.lower(), f"{self.program} {' '.join(arguments)}: no {words!r} in {said!r}")

    def lines(self, number, *arguments):
        return self.ok(number, *arguments).split("\n")[:-1]

    def get(self, number, path):
        connection = UnixConnection(self.socket(number))
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        check(answer.status == 200, f"GET {path}: {answer.status} {body!r}")
        return json.loads(body)

    def node(self, number, seen_by=1):
        return self.get(seen_by, f"/nodes/node-{number}")

    def address(self, number):
        return self.get(number, "/info")["Swarm"]["NodeAddr"]

    def kill_daemon(self, number):
        # At the start of the line: the keeper's ends with the daemon's.
        subprocess.run(["pkill", "-KILL", "-f", f"^[^ ]*skep daemon .*--run {os.path.dirname(self.socket(number))} "], check=True)


def second(count):
    return count * 1_000_000_000


def init(cluster):
    said = cluster.ok(
        1, "swarm", "init", "--advertise-addr", "eth0", "--listen-addr", "0.0.0.0:2377", "--data-path-addr", "eth0",
        "--data-path-port", "7777", "--autolock", "--availability", "drain", "--cert-expiry", "48h0m0s",
        "--dispatcher-heartbeat", "7s", "--max-snapshots", "2", "--snapshot-interval", "500", "--task-history-limit", "3",
        "--default-addr-pool", "172.30.0.0/16", "--default-addr-pool-mask-length", "24")
    for words in ["is now a manager", "swarm join --token SWMTKN-1-", "SWMKEY-1-"]:
        check(words in said, f"init does not say {words!r}: {said}")
    swarm, info = cluster.get(1, "/swarm"), cluster.get(1, "/info")["Swarm"]
    spec = swarm["Spec"]
    for found, expected in [
        (spec["CAConfig"]["NodeCertExpiry"], second(48 * 3600)),
        (spec["Dispatcher"]["HeartbeatPeriod"], second(7)),
        (spec["Raft"]["SnapshotInterval"], 500),
        (spec["Raft"]["KeepOldSnapshots"], 2),
        (spec["Orchestration"]["TaskHistoryRetentionLimit"], 3),
        (spec["EncryptionConfig"]["AutoLockManagers"], True),
        (swarm["DefaultAddrPool"], ["172.30.0.0/16"]),
        (swarm["SubnetSize"], 24),
        (swarm["DataPathPort"], 7777),
        (cluster.node(1)["Spec"]["Availability"], "drain"),
        (info["LocalNodeState"], "active"),
        (info["ControlAvailable"], True),
        (info["Managers"], 1),
        (info["RemoteManagers"][0]["Addr"], f"{info['NodeAddr']}:2377"),
    ]:
        check(found == expected, f"init: {found!r}, not {expected!r}")
    check(info["NodeAddr"].startswith("10.77."), f"eth0's address, not {info['NodeAddr']}")
    cluster.refused(1, "already part of a swarm", "swarm", "init")
    ingress = cluster.get(1, "/networks/ingress")["IPAM"]["Config"][0]["Subnet"]
    check(ingress.startswith("172.30."), f"the first network comes from the pool, not {ingress}")


def join(cluster):
    tokens = {role: cluster.ok(1, "swarm", "join-token", "-q", role).strip() for role in ["worker", "manager"]}
    check("swarm join --token" in cluster.ok(1, "swarm", "join-token", "worker"), "join-token shows the command")
    manager = f"{cluster.address(1)}:2377"
    said = cluster.ok(2, "swarm", "join", "--token", tokens["worker"], "--availability", "pause", "--advertise-addr", "eth0",
                      "--listen-addr", "0.0.0.0:2388", "--data-path-addr", "eth0", manager)
    check("joined a swarm as a worker" in said, said)
    check(cluster.node(2)["Spec"]["Availability"] == "pause", "join --availability")
    said = cluster.ok(3, "swarm", "join", "--token", tokens["manager"], manager)
    check("joined a swarm as a manager" in said, said)
    until("three nodes", lambda: all(cluster.node(n)["Status"]["State"] == "ready" for n in [1, 2, 3]))
    old = tokens["worker"]
    said = cluster.ok(1, "swarm", "join-token", "--rotate", "worker")
    new = cluster.ok(3, "swarm", "join-token", "-q", "worker").strip()
    check(new != old and new in said, "join-token --rotate")
    cluster.ok(2, "swarm", "leave")
    cluster.refused(2, "valid join token", "swarm", "join", "--token", old, manager)
    cluster.ok(2, "swarm", "join", "--token", new, manager)
    # The node of before is another one, and down.
    nodes = [node for node in cluster.get(1, "/nodes") if node["Description"]["Hostname"] == "node-2"]
    until("the one that left is down", lambda: cluster.get(1, f"/nodes/{nodes[0]['ID']}"))
    gone = until("down", lambda: [n for n in cluster.get(1, "/nodes") if n["Status"]["State"] == "down"])
    cluster.ok(1, "node", "rm", gone[0]["ID"])


def settings(cluster):
    cluster.ok(3, "swarm", "update", "--autolock=false", "--cert-expiry", "72h0m0s", "--dispatcher-heartbeat", "5s",
               "--max-snapshots", "1", "--snapshot-interval", "600", "--task-history-limit", "4")
    spec = cluster.get(1, "/swarm")["Spec"]
    for found, expected in [
        (spec["CAConfig"]["NodeCertExpiry"], second(72 * 3600)),
        (spec["Dispatcher"]["HeartbeatPeriod"], second(5)),
        (spec["Raft"]["SnapshotInterval"], 600),
        (spec["Raft"]["KeepOldSnapshots"], 1),
        (spec["Orchestration"]["TaskHistoryRetentionLimit"], 4),
        (spec["EncryptionConfig"]["AutoLockManagers"], False),
    ]:
        check(found == expected, f"update: {found!r}, not {expected!r}")
    cluster.refused(1, "minimum certificate expiry", "swarm", "update", "--cert-expiry", "1m0s")
    cluster.refused(1, "no unlock key is set", "swarm", "unlock-key")
    cluster.refused(1, "not locked", "swarm", "unlock", stdin="SWMKEY-1-x\n")
    said = cluster.ok(1, "swarm", "update", "--autolock")
    key = cluster.ok(3, "swarm", "unlock-key", "-q").strip()
    check(key in said and key.startswith("SWMKEY-1-"), "update --autolock shows the key")
    check(key in cluster.ok(1, "swarm", "unlock-key"), "unlock-key")
    said = cluster.ok(1, "swarm", "unlock-key", "--rotate")
    new = cluster.ok(1, "swarm", "unlock-key", "-q").strip()
    check(new != key and new in said, "unlock-key --rotate")

    def locked():
        cluster.kill_daemon(3)
        return until("the daemon is back", lambda: cluster.get(3, "/info")["Swarm"]["LocalNodeState"]) == "locked"

    until("manager 3 is locked after a restart", locked)
    cluster.refused(3, "encrypted and needs to be unlocked", "node", "ls")
    cluster.refused(3, "invalid key", "swarm", "unlock", stdin=f"{key}\n")
    cluster.ok(3, "swarm", "unlock", stdin=f"{new}\n")
    until("it serves again", lambda: cluster.get(3, "/nodes"))
    cluster.ok(1, "swarm", "update", "--autolock=false")


def authority(cluster, folder):
    pem = cluster.ok(1, "swarm", "ca")
    check("BEGIN CERTIFICATE" in pem, "swarm ca")
    cluster.refused(1, "rotate", "swarm", "ca", "--cert-expiry", "50h0m0s")
    cluster.ok(1, "swarm", "ca", "--rotate", "--quiet")
    second_root = cluster.ok(3, "swarm", "ca")
    check(second_root != pem, "ca --rotate")
    key, certificate = f"{folder}/ca.key", f"{folder}/ca.crt"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                    "-out", certificate, "-days", "3650", "-subj", "/CN=theirs"], check=True, capture_output=True)
    cluster.refused(1, "ca-key", "swarm", "ca", "--rotate", "--ca-cert", certificate)
    cluster.refused(1, "ca-cert", "swarm", "ca", "--rotate", "--external-ca", "protocol=cfssl,url=https://127.0.0.1:1/")
    cluster.ok(1, "swarm", "ca", "--rotate", "--detach", "--ca-cert", certificate, "--ca-key", key, "--cert-expiry", "60h0m0s")
    until("the rotation ends", lambda: not cluster.get(1, "/swarm")["RootRotationInProgress"])
    given = open(certificate, encoding="ascii").read().strip()
    check(cluster.ok(1, "swarm", "ca").strip() == given, "ca --ca-cert")
    check(cluster.get(1, "/swarm")["Spec"]["CAConfig"]["NodeCertExpiry"] == second(60 * 3600), "ca --cert-expiry")
    until("every node trusts it", lambda: all(
        node["Description"]["TLSInfo"]["TrustRoot"].strip() == given for node in cluster.get(1, "/nodes")))


def nodes(cluster):
    head, *rows = cluster.lines(1, "node", "ls")
    for column in ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"]:
        check(column in head, f"node ls has no column {column}")
    check(len(rows) == 3 and rows[0].split()[1] == "*", f"node ls: {rows}")
    ids = {number: cluster.node(number)["ID"] for number in [1, 2, 3]}
    check(set(cluster.lines(1, "node", "ls", "-q")) == set(ids.values()), "node ls -q")
    cluster.ok(1, "node", "update", "--label-add", "zone=a", "--label-add", "disk=ssd", "node-2")
    check(cluster.node(2)["Spec"]["Labels"] == {"zone": "a", "disk": "ssd"}, "node update --label-add")
    for flag, expected in [
        (["--filter", "name=node-2"], [2]),
        (["--filter", f"id={ids[3]}"], [3]),
        (["--filter", "node.label=zone=a"], [2]),
        (["--filter", "node.label=zone"], [2]),
        (["--filter", "role=manager"], [1, 3]),
        (["--filter", "role=worker"], [2]),
        (["--filter", "membership=accepted"], [1, 2, 3]),
        (["--filter", "role=manager", "--filter", "name=node-3"], [3]),
    ]:
        found = cluster.lines(1, "node", "ls", "-q", *flag)
        check(sorted(found) == sorted(ids[number] for number in expected), f"node ls {flag}: {found}")
    cluster.refused(1, "invalid filter", "node", "ls", "--filter", "nonsense=1")
    template = "{{.Hostname}} {{.Status}} {{.Availability}} {{.Self}} {{if .Self}}me{{end}} {{.TLSStatus}}"
    shown = cluster.lines(1, "node", "ls", "--format", template)
    check("node-1 Ready Drain true me Ready" in shown, f"node ls --format: {shown}")
    check("node-2 Ready Active false  Ready" in shown, f"node ls --format: {shown}")
    rows = [json.loads(row) for row in cluster.lines(1, "node", "ls", "--format", "json")]
    check({row["ID"] for row in rows} == set(ids.values()), "node ls --format json")
    cluster.ok(1, "node", "update", "--label-rm", "disk", "--availability", "pause", "node-2")
    check(cluster.node(2)["Spec"]["Labels"] == {"zone": "a"}, "node update --label-rm")
    check(cluster.node(2)["Spec"]["Availability"] == "pause", "node update --availability")
    cluster.refused(1, "doesn't exist", "node", "update", "--label-rm", "nothing", "node-2")
    cluster.ok(1, "node", "update", "--availability", "active", "node-2")
    cluster.ok(1, "node", "update", "--availability", "active", "node-1")
    pretty = cluster.ok(1, "node", "inspect", "--pretty", "self")
    for words in [ids[1], "Hostname:", "node-1", "Manager Status:", "Leader:", "Reachable", "TLS Info:", "Resources:"]:
        check(words in pretty, f"node inspect --pretty: no {words!r} in {pretty}")
    check(json.loads(cluster.ok(1, "node", "inspect", "node-2"))[0]["ID"] == ids[2], "node inspect")
    check(cluster.ok(1, "node", "inspect", "--format", "{{.Spec.Role}}", "node-2").strip() == "worker", "inspect --format")
    cluster.refused(1, "ghost", "node", "inspect", "ghost")


def tasks(cluster):
    cluster.ok(1, "service", "create", "--quiet", "--name", "web", "--mode", "global", "whoami")
    until("one on each node", lambda: len([
        task for task in cluster.get(1, "/tasks") if task["Status"]["State"] == "running"]) == 3)
    head, *rows = cluster.lines(1, "node", "ps")
    for column in ["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"]:
        check(column in head, f"node ps has no column {column}")
    check(len(rows) == 1 and "node-1" in rows[0], f"node ps: {rows}")
    # Docker's says some of them twice.
    short = set(cluster.lines(1, "node", "ps", "-q", "node-1", "node-2", "node-3"))
    check(len(short) == 3 and all(len(task) == 12 for task in short), f"node ps -q of several: {short}")
    check(cluster.lines(1, "node", "ps", "--filter", "desired-state=shutdown", "-q", "node-2") == [], "node ps --filter")
    check(cluster.lines(1, "node", "ps", "--format", "{{.Node}} {{.DesiredState}}", "node-2") == ["node-2 Running"],
          "node ps --format")
    whole = cluster.lines(1, "node", "ps", "--no-trunc", "-q", "node-2")[0]
    check(any(task["ID"] == whole for task in cluster.get(1, "/tasks")), "node ps --no-trunc")
    node = cluster.node(2)["ID"]
    check(cluster.lines(1, "node", "ps", "--no-resolve", "--format", "{{.Node}}", "node-2") == [node], "node ps --no-resolve")
    done = cluster.run(1, "node", "ps", "-q", "ghost", "node-2")
    check(done.returncode == 1 and whole[:12] in done.stdout and "ghost" in done.stderr, f"node ps of a ghost: {done}")
    cluster.ok(1, "service", "rm", "web")


def roles(cluster):
    check("promoted to a manager" in cluster.ok(1, "node", "promote", "node-2"), "promote")
    until("a manager", lambda: cluster.node(2).get("ManagerStatus", {}).get("Reachability") == "reachable")
    check("already a manager" in cluster.ok(1, "node", "promote", "node-2"), "promote twice")
    check("demoted in the swarm" in cluster.ok(1, "node", "demote", "node-2"), "demote")
    until("a worker", lambda: "ManagerStatus" not in cluster.node(2))
    cluster.ok(1, "node", "update", "--role", "manager", "node-2")
    until("a manager", lambda: cluster.node(2).get("ManagerStatus", {}).get("Reachability") == "reachable")
    cluster.ok(1, "node", "demote", "node-2", "node-3")
    until("workers", lambda: all("ManagerStatus" not in cluster.node(n) for n in [2, 3]))
    cluster.refused(1, "last manager", "node", "demote", "node-1")
    cluster.refused(2, "not a swarm manager", "node", "ls")


def leave(cluster):
    cluster.refused(1, "--force", "swarm", "leave")
    cluster.refused(1, "is not down", "node", "rm", "node-2")
    cluster.ok(1, "node", "rm", "--force", "node-2")
    check("left the swarm" in cluster.ok(3, "swarm", "leave"), "leave")
    until("down", lambda: cluster.node(3)["Status"]["State"] == "down")
    check(cluster.ok(1, "node", "rm", "node-3").strip() == "node-3", "node rm")
    # A swarm of one with another address, and what it had.
    before = cluster.get(1, "/swarm")["ID"]
    cluster.ok(1, "swarm", "init", "--force-new-cluster")
    until("it leads", lambda: cluster.node(1)["ManagerStatus"]["Leader"])
    check(cluster.get(1, "/swarm")["ID"] == before, "init --force-new-cluster keeps the swarm")
    cluster.ok(1, "swarm", "leave", "--force")
    check(cluster.get(1, "/info")["Swarm"]["LocalNodeState"] == "inactive", "leave --force")
    cluster.refused(1, "not part of a swarm", "swarm", "leave")
    cluster.refused(1, "not a swarm manager", "node", "ls")


def main():
    for program in sys.argv[1:] or ["skep", "docker"]:
        with Cluster(program) as cluster, tempfile.TemporaryDirectory() as folder:
            for part in [init, join, settings, lambda it: authority(it, folder), nodes, tasks, roles, leave]:
                part(cluster)
        print(f"{program}: every command and flag of swarm and node does what it says")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"commands: {failed}")
