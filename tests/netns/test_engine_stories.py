"""What people do with podman and Docker, behind the gateway: networks, pods, restarts, kills, many at once."""
import json
import os
import re
import shlex
import subprocess
import threading

import pytest

from engines import docker, podman  # noqa: F401
from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import wait_until
from origins import address
from test_rules import ssh

ROUNDS = int(os.environ.get("SALLYPORT_ENGINE_ROUNDS", "12"))
DENIED = "curl -sS --max-time 5 --resolve denied.example:443:{0} https://denied.example/ >/dev/null; echo $?"


def running_out(line, timeout=60):
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=timeout)


def left(gateway):
    """What a container may leave: enrolments, state files, descriptors and children of both processes, namespaces held by them."""
    monitor, worker = gateway.process.pid, gateway.worker()
    descriptors = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (monitor, worker)]
    children = len(open(f"/proc/{monitor}/task/{monitor}/children").read().split())
    return [len(gateway.told("ps")), len(list(gateway.state.iterdir())), *descriptors, children]


# --- podman ----------------------------------------------------------------------------------------------------------

def test_podman_with_a_bridge_of_its_own(gateway, podman):
    uplink = gateway.lab.capture()
    host = address("denied.example")
    story = f"""curl -sS --max-time 10 https://allowed.example/; {DENIED.format(host)}
        curl -sS --max-time 5 http://{host}:8081/ 2>&1; dig +time=2 +tries=1 denied.example | grep -c NXDOMAIN"""
    done = podman.run(["sh", "-c", story], "--annotation", "sallyport.capture=attached", network="podman")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("allowed.example at") and lines[1] == "35" and lines[-1] == "1", done
    assert not uplink.towards(host) and not uplink.carrying("denied")
    # Sealed, it would have had a way past the gateway.
    done = podman.run(["echo", "it ran"], network="podman")
    assert done.returncode == 126 and "eth0" in done.stderr and "it ran" not in done.stdout, done


def test_podman_all_containers_without_an_annotation(gateway, podman):
    said = podman.configure("--all", "--policy", "agents")
    assert "every container" in said
    done = podman.run(["curl", "-sS", "https://allowed.example/"], policy=None)
    assert done.stdout.startswith("allowed.example at"), done
    done = podman.run(["curl", "-sS", "https://denied.example/"], policy="unrestricted")  # or by an annotation of the image
    assert done.returncode == 6, done
    podman.configure("--all")  # containers choose
    assert podman.run(["true"], "--annotation", "sallyport.policy=ghost", policy=None).returncode == 126
    podman.configure("--all", "--attached", "--policy", "agents")
    done = podman.run(["curl", "-sS", "https://allowed.example/"], policy=None, network="podman")
    assert done.stdout.startswith("allowed.example at"), done
    podman.configure("--remove")
    assert podman.run(["ls", "/sys/class/net"], policy=None).stdout.split() == ["lo"]


def test_podman_containers_that_share_a_network(gateway, podman):
    """As in a pod: each of them comes with its own hook, and each can go first."""
    sleep = ["--rootfs", f"{podman.root}:O", "sleep", "60"]
    ask = ["--rootfs", f"{podman.root}:O", "curl", "-sS", "--max-time", "10", "https://allowed.example/"]
    started = podman.podman("run", "-d", "--name", "one", "--network", "none", *podman.options(), *sleep)
    assert started.returncode == 0, started
    second = podman.podman("run", "-d", "--name", "two", "--network", "container:one", *podman.options(), *sleep)
    assert second.returncode == 0, second
    third = podman.podman("run", "--rm", "--network", "container:one", *podman.options(), *ask)
    assert third.stdout.startswith("allowed.example at"), third
    other = podman.podman("run", "--rm", "--network", "container:one", *podman.options("nothing"), *ask)
    assert other.returncode == 126 and "another policy" in other.stderr, other
    wait_until(lambda: len(gateway.told("ps")) == 2, "the third one's end")
    podman.podman("kill", "one")
    wait_until(lambda: any(one.get("ended") for one in gateway.told("ps")), "the first one's end")
    done = podman.podman("exec", "two", "curl", "-sS", "--max-time", "10", "https://allowed.example/")
    assert done.stdout.startswith("allowed.example at"), done
    podman.podman("kill", "two")
    wait_until(lambda: gateway.told("ps") == [], "the end of both")


def test_podman_ssh_and_dns_from_inside(gateway, podman):
    lab = gateway.lab
    keys = ["-v", f"{lab.folder}:{lab.folder}:ro"]
    line = shlex.join(map(str, ssh(lab, 4, "echo in")))
    done = podman.run(["sh", "-c", f"{line}; dig +short allowed.example; dig @192.0.2.77 +short allowed.example AAAA"], *keys)
    assert done.stdout.split() == ["in", address("allowed.example", 4), address("allowed.example", 6)], done


def test_podman_by_cni(gateway, podman):
    """A real runtime calls the plugin: a network of podman's, with ours behind bridge, and no hook."""
    bridge = {"type": "bridge", "bridge": "cni-own", "isGateway": True, "ipMasq": True,
              "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "198.19.4.0/24"}]]}}
    networks, plugins = podman.folder / "networks", podman.folder / "plugins"
    (networks / "own.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "own", "plugins": [bridge]}))
    plugins.mkdir()
    done = subprocess.run([str(gateway.lab.binary), "cni", "install", "--bin-dir", plugins, "--conf-dir", networks, "--policy", "agents",
                           "--control", gateway.control], capture_output=True, text=True)
    assert done.returncode == 0, done
    folders = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin", str(plugins)]
    (podman.folder / "containers.conf").write_text(f"[network]\ncni_plugin_dirs = {json.dumps(folders)}\n")
    podman.more_environment = {"CONTAINERS_CONF": str(podman.folder / "containers.conf")}
    done = podman.run(["echo", "it ran"], network="own", policy=None)  # in a mount namespace of its own
    assert done.returncode and "it ran" not in done.stdout and "does not find that namespace" in done.stderr, done
    podman.share_mounts()
    host = address("denied.example")
    done = podman.run(["sh", "-c", f"curl -sS --max-time 10 https://allowed.example/; {DENIED.format(host)}"], "--name", "by-cni",
                      network="own", policy=None)
    lines = done.stdout.splitlines()
    assert lines and lines[0].startswith("allowed.example at") and lines[1:] == ["35"], done
    gateway.await_event(lambda events: events.where(container_name="by-cni"))
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")
    gateway.kill()
    done = podman.run(["echo", "it ran"], network="own", policy=None)
    assert done.returncode and "it ran" not in done.stdout and "no gateway answers" in done.stderr, done


GREETER = "import socket; s = socket.create_server(('', 80)); print('up', flush=True)\nwhile True: s.accept()[0].sendall(b'hi there')"
CALLER = "import socket; s = socket.create_connection(('127.0.0.1', 8080), timeout=5); print(s.recv(99).decode())"


def call(gateway):
    return gateway.lab.host.run("/usr/bin/python3", "-c", CALLER, capture_output=True, check=False).stdout


def test_podman_a_published_port(gateway, podman):
    server = podman.start(["/usr/bin/python3", "-c", GREETER], "--name", "web", "--annotation", "sallyport.publish=8080:80")
    assert server.stdout.readline() == "up\n", server.communicate()
    assert call(gateway) == "hi there\n"
    done = podman.run(["echo", "it ran"], "--annotation", "sallyport.publish=8080:80")
    assert done.returncode == 126 and "127.0.0.1:8080 is in use" in done.stderr and "it ran" not in done.stdout, done
    done = podman.run(["echo", "it ran"], "--annotation", "sallyport.publish=eighty")
    assert done.returncode == 126 and "write [ADDRESS:]PORT:PORT" in done.stderr, done
    podman.podman("kill", "web")
    server.communicate(timeout=20)
    wait_until(lambda: call(gateway) == "", "the end of the port")


# --- Docker ----------------------------------------------------------------------------------------------------------

def test_docker_configure_keeps_the_rest_of_the_file(gateway, docker):
    path = docker.folder / "daemon.json"
    first = json.loads(path.read_text())
    assert first["log-opts"] == {"max-size": "1m"} and set(first["runtimes"]) == {"sallyport", "sallyport-attached"}
    assert "stays as it is" in docker.configure()
    path.chmod(0o640)
    docker.configure("--policy", "agents", "--policy", "nothing", "--default")
    changed = json.loads(path.read_text())
    assert changed["default-runtime"] == "sallyport-agents-attached" and path.stat().st_mode & 0o777 == 0o640
    assert {"sallyport", "sallyport-agents", "sallyport-nothing", "sallyport-nothing-attached"} < set(changed["runtimes"])
    # The daemon takes it without a restart.
    os.kill(docker.daemon.pid, 1)
    wait_until(lambda: "sallyport-agents-attached" in docker.docker("info", "-f", "{{.DefaultRuntime}}").stdout, "the reload")
    done = docker.docker("run", "--rm", "--network", "bridge", *docker.options(), "story", "curl", "-sS", "https://allowed.example/")
    assert done.stdout.startswith("allowed.example at"), done
    done = docker.docker("run", "--rm", "--runtime", "sallyport-agents", "--network", "none", "-e", "SALLYPORT_POLICY=unrestricted",
                         *docker.options(), "story", "curl", "-sS", "https://denied.example/")  # or by ENV of the image
    assert done.returncode == 6, done
    assert "would" not in docker.configure("--remove", "--dry-run")
    docker.configure("--remove")
    assert json.loads(path.read_text()) == {"log-opts": {"max-size": "1m"}}
    # What is somebody else's by that name stays.
    path.write_text(json.dumps({"runtimes": {"sallyport": {"path": "/usr/bin/other"}}}))
    done = subprocess.run([str(gateway.lab.binary), "docker", "configure", "--config", str(path)], capture_output=True, text=True)
    assert done.returncode == 2 and "something else" in done.stderr and "other" in path.read_text()


def test_docker_with_bridges(gateway, docker):
    """The default one, and one with Docker's own name server, which would ask outside the container."""
    uplink, host = gateway.lab.capture(), address("denied.example")
    story = f"""curl -sS --max-time 10 https://allowed.example/; {DENIED.format(host)}
        dig +time=2 +tries=1 denied.example | grep -c NXDOMAIN; dig @127.0.0.11 +time=2 +tries=1 denied.example | grep -c NXDOMAIN"""
    assert docker.docker("network", "create", "own").returncode == 0
    for network in ("bridge", "own"):
        done = docker.run(["sh", "-c", story], "-e", "SALLYPORT_POLICY=agents", runtime="sallyport-attached", network=network)
        lines = done.stdout.splitlines()
        assert lines[0].startswith("allowed.example at") and lines[1:] == ["35", "1", "1"], (network, done)
    assert not uplink.towards(host) and not uplink.carrying("denied")
    done = docker.run(["echo", "it ran"], "-e", "SALLYPORT_POLICY=agents", network="bridge")
    assert done.returncode and "it ran" not in done.stdout and "eth0" in done.stderr + gateway.log(), done
    done = docker.run(["curl", "-sS", "https://allowed.example/"], "-e", "SALLYPORT_POLICY=agents", "-e", "SALLYPORT_CAPTURE=attached",
                      "-e", "SALLYPORT_NAME=by-variable", network="bridge")
    assert done.stdout.startswith("allowed.example at"), done
    gateway.await_event(lambda events: events.where(container_name="by-variable"))


def test_docker_many_at_once_then_restart_kill_and_remove(gateway, docker):
    """As compose starts a project: each with its name; then what happens to containers in their lives."""
    names = [f"ci-{i}" for i in range(6)]
    before = left(gateway)
    run = ["run", "-d", "--runtime", "sallyport", "--network", "none", *docker.options()]
    threads = [threading.Thread(target=docker.docker, args=[*run, "--name", name, "--hostname", name, "story", "sleep", "600"])
               for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["name"] for one in gateway.told("ps")) == names, gateway.log()
    ask = ["curl", "-sS", "--max-time", "10", "https://allowed.example/"]
    assert docker.docker("exec", "ci-0", *ask).stdout.startswith("allowed.example at")
    assert docker.docker("restart", "-t", "1", "ci-0").returncode == 0
    assert docker.docker("exec", "ci-0", *ask).stdout.startswith("allowed.example at")
    assert docker.docker("kill", "ci-1").returncode == 0
    wait_until(lambda: "ci-1" not in {one["name"] for one in gateway.told("ps")}, "the killed one's withdrawal")
    assert docker.docker("start", "ci-1").returncode == 0
    assert docker.docker("exec", "ci-1", *ask).stdout.startswith("allowed.example at")
    shared = docker.docker("run", "--rm", "--runtime", "sallyport", "--network", "container:ci-2", *docker.options(), "-e",
                           "SALLYPORT_NAME=ci-2", "story", *ask)
    assert shared.stdout.startswith("allowed.example at"), shared
    assert docker.docker("rm", "-f", *names).returncode == 0
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal of all")
    wait_until(lambda: left(gateway) == before, f"nothing left: {before}, {left(gateway)}", 5)


def test_docker_a_published_port_follows_a_restart(gateway, docker):
    done = docker.docker("run", "-d", "--name", "web", "--runtime", "sallyport", "--network", "none", "-e", "SALLYPORT_POLICY=agents", "-e",
                         "SALLYPORT_PUBLISH=8080:80", *docker.options(), "story", "/usr/bin/python3", "-c", GREETER)
    assert done.returncode == 0, done
    wait_until(lambda: call(gateway) == "hi there\n", "the server")
    assert docker.docker("restart", "-t", "0", "web").returncode == 0
    wait_until(lambda: call(gateway) == "hi there\n", "the server again")
    assert docker.docker("rm", "-f", "web").returncode == 0
    wait_until(lambda: call(gateway) == "", "the end of the port")


def test_docker_root_with_net_admin_inside_cannot_open_it(gateway, docker):
    uplink = gateway.lab.capture()
    host, host6 = address("denied.example", 4), address("denied.example", 6)
    story = f"""nft flush ruleset; iptables -F; ip route replace default dev eth0; ip link add more type veth peer name less
        ip link set more up; ip addr add 198.18.9.9/16 dev more; ip -6 route replace default dev eth0
        ip neigh replace 10.0.2.2 lladdr 02:00:00:00:00:01 dev eth0
        curl -sS --max-time 2 --resolve denied.example:443:{host} https://denied.example/
        curl -sS --max-time 2 --resolve denied.example:443:[{host6}] https://denied.example/
        ping -c 1 -W 1 {host}; ping -m 1 -c 1 -W 1 {host}; ping -6 -c 1 -W 1 {host6}
        python3 -c 'import socket
for family, to in ((socket.AF_INET, "{host}"), (socket.AF_INET6, "{host6}")):
    raw = socket.socket(family, socket.SOCK_RAW, 253)
    for mark in (0, 1, 255):
        raw.setsockopt(socket.SOL_SOCKET, 36, mark)
        try:
            raw.sendto(b"leak", (to, 0))
        except OSError: pass
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
for link in ("lo", "eth0", "more"):
    try:
        packet.bind((link, 0x0800)); packet.send(b"\\xff" * 60)
    except OSError: pass
'
        echo done"""
    done = docker.run(["sh", "-c", story], "-e", "SALLYPORT_POLICY=agents", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
    assert done.stdout.endswith("done\n"), done
    assert uplink.packets() == []


# --- many rounds -----------------------------------------------------------------------------------------------------

def test_podman_containers_are_killed_at_any_moment(gateway, podman):
    """Killed before, during and after their enrolment; nothing stays."""
    podman.run(["true"])
    wait_until(lambda: gateway.told("ps") == [], "the first one's end")
    before = left(gateway)
    for i in range(ROUNDS):
        starting = podman.start(["sleep", "60"], "--name", f"r{i}")
        if i % 3:
            wait_until(lambda: i % 3 == 1 or gateway.told("ps"), "the enrolment", 20)
        else:
            starting.poll()
        podman.podman("rm", "-f", "-t", "0", f"r{i}")
        starting.kill()
        starting.communicate(timeout=30)
        podman.podman("rm", "-f", "-t", "0", f"r{i}")
    wait_until(lambda: gateway.told("ps") == [], f"the last withdrawal: {gateway.told('ps')}", 20)
    wait_until(lambda: left(gateway) == before, f"nothing left: {before}, {left(gateway)}", 10)


def namespace_mounts(engine):
    """Namespaces kept alive by a mount of this engine's; other tests of the machine have their own."""
    with open("/proc/self/mountinfo") as mounts:
        return sum("nsfs" in line and str(engine.folder) in line for line in mounts)


def test_docker_containers_are_removed_while_they_start(gateway, docker):
    docker.run(["true"], "-e", "SALLYPORT_POLICY=agents")
    wait_until(lambda: gateway.told("ps") == [], "the first one's end")
    before, mounted = left(gateway), namespace_mounts(docker)
    run = ["run", "--runtime", "sallyport", "--network", "none", "-e", "SALLYPORT_POLICY=agents", *docker.options()]

    def one(i):
        starting = subprocess.Popen(["/usr/bin/docker", "-H", docker.host, *map(str, run), "--name", f"r{i}", "story", "sleep", "60"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if i % 2:
            wait_until(lambda: gateway.told("ps"), "an enrolment", 30)
        while docker.docker("rm", "-f", f"r{i}").returncode or starting.poll() is None:
            pass
        starting.wait()

    workers = [threading.Thread(target=lambda start: [one(i) for i in range(start, ROUNDS, 3)], args=[start]) for start in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert docker.docker("ps", "-aq").stdout == ""
    wait_until(lambda: gateway.told("ps") == [], f"the last withdrawal: {gateway.told('ps')}", 20)
    wait_until(lambda: left(gateway) == before, f"nothing left: {before}, {left(gateway)}", 10)
    assert namespace_mounts(docker) == mounted
