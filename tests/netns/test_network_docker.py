"""dockerd in the gateway's own host namespace, its bridges behind network capture: no runtime of ours, no option on containers."""
import re
import shutil

import pytest

import engines
from gateway_fixtures import make_gateway  # noqa: F401
from lab import missing_programs
from origins import address

POLICY = """
policies:
  agents: {allow: [allowed.example, "tcp://ssh.example:22"]}
networks:
  - {name: docker, interface: [docker0, "br-*"], policy: agents}
"""
NO_NETWORK = "policies: {agents: {allow: [allowed.example]}}\n"


class DockerOnHost(engines.Docker):
    """With its bridges and its iptables rules beside the gateway."""

    def __init__(self, gateway, folder):
        super().__init__(gateway, folder)

    def run(self, command, *options, network="bridge", runtime="runc"):
        return super().run(command, "--dns", "192.0.2.53", *options, network=network, runtime=runtime)


@pytest.fixture
def gateway(make_gateway):  # noqa: F811
    return make_gateway(NO_NETWORK)


@pytest.fixture
def docker(gateway, monkeypatch):
    if missing := missing_programs("dockerd", "containerd", "runc", "docker", "iptables-save"):
        pytest.skip(f"not installed: {' '.join(missing)}")
    host = gateway.lab.host
    monkeypatch.setattr(engines, "Namespace", lambda: Borrowed(host))
    folder = gateway.folder / "docker"
    folder.mkdir()
    engine = DockerOnHost(gateway, folder)
    try:
        if problem := engine.await_ready():
            pytest.skip(f"dockerd does not run here: {problem}")
        packed = engines.subprocess.run(["tar", "-C", engines.make_root(folder), "-c", "."], stdout=engines.subprocess.PIPE,
                                        check=True)
        imported = engines.subprocess.run(["/usr/bin/docker", "-H", engine.host, "import", "-", "story"], input=packed.stdout,
                                          capture_output=True)
        assert imported.returncode == 0, imported.stderr
        tried = engine.run(["true"])
        if tried.returncode:
            pytest.skip(f"docker runs no container on its bridge here: {tried.stderr[-300:]}")
        yield engine
    finally:
        engine.close()
        for link in re.findall(r"^(docker0|br-\w+)", host.output("ip", "-br", "link"), flags=re.M):
            host.run("ip", "link", "del", link)
        host.run("nft", "flush", "ruleset")
        for table in ("filter", "nat"):
            host.run("iptables-legacy", "-t", table, "-F", check=False, capture_output=True)
            host.run("iptables-legacy", "-t", table, "-X", check=False, capture_output=True)
            for chain in ("INPUT", "FORWARD", "OUTPUT"):
                host.run("iptables-legacy", "-t", table, "-P", chain, "ACCEPT", check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


class Borrowed:
    """The host's namespace, which outlives the engine."""

    def __init__(self, namespace):
        self.run, self.enter, self.output = namespace.run, namespace.enter, namespace.output

    def close(self):
        pass


def rules_of_docker(gateway):
    """Without counters."""
    saved = gateway.lab.host.output("sh", "-c", "iptables-save; ip6tables-save; iptables-legacy-save; nft list tables")
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in saved.splitlines() if not line.startswith("#") and "sallyport" not in line]


DENIED = "curl -sS --max-time 5 --resolve denied.example:443:{0} https://denied.example/ >/dev/null 2>&1; echo $?"


def test_its_default_bridge_and_one_of_its_own_networks(gateway, docker):
    before = rules_of_docker(gateway)
    assert any("DOCKER" in line for line in before), before
    gateway.write_policy(POLICY)
    gateway.told("reload")
    assert rules_of_docker(gateway) == before
    uplink = gateway.lab.capture()
    host = address("denied.example")
    assert docker.docker("network", "create", "other").returncode == 0
    for network in ("bridge", "other"):
        story = f"""curl -sS --max-time 10 https://allowed.example/; {DENIED.format(host)}
            curl -sS --max-time 5 http://{host}:8081/ 2>&1; dig +time=2 +tries=1 denied.example | grep -c NXDOMAIN
            dig +short +time=2 +tries=1 ssh.example >/dev/null; exec 3<>/dev/tcp/{address('ssh.example')}/22; head -c 7 <&3"""
        done = docker.run(["bash", "-c", story], network=network)
        lines = done.stdout.splitlines()
        assert lines[0].startswith("allowed.example at"), (network, done, gateway.log())
        assert lines[1] == "35" and "Couldn't connect" in lines[2] and lines[-2:] == ["1", "SSH-2.0"], (network, done)
    assert not uplink.towards(host) and not uplink.carrying("denied")
    assert {packet.source for packet in uplink.packets()} <= {"198.19.0.2", *(p.source for p in uplink.packets() if p.source.startswith("198.18."))}
    # Published ports lead nowhere from outside: nothing is forwarded into a captured network.
    started = docker.docker("run", "-d", "--rm", "--network", "bridge", *docker.options(), "-p", "8088:8088", "story", "python3", "-m",
                            "http.server", "8088")
    assert started.returncode == 0, started
    outside = gateway.lab.internet.run("timeout", "2", *gateway.lab.client, "connect", "198.19.0.2", "8088", check=False, capture_output=True)
    assert not outside.stdout.startswith("connected"), outside
    docker.docker("kill", started.stdout.strip())
    docker.docker("network", "rm", "other")
    gateway.write_policy(NO_NETWORK)
    gateway.told("reload")
    assert [line for line in rules_of_docker(gateway) if "8088" not in line] == before
    done = docker.run(["curl", "-sS", "--max-time", "5", "--resolve", f"denied.example:443:{host}", "https://denied.example/"])
    assert done.stdout.startswith("denied.example at"), "without capture Docker works as ever"


def test_root_with_net_admin_in_a_container_gains_nothing(gateway, docker):
    gateway.write_policy(POLICY)
    gateway.told("reload")
    uplink = gateway.lab.capture()
    host = address("denied.example")
    story = f"""nft flush ruleset; iptables -F 2>/dev/null
        ip route replace default via 172.17.0.1 dev eth0; ip addr add 172.17.0.77/16 dev eth0; ip addr add 10.77.0.1/24 dev eth0
        python3 - <<'END'
import socket, struct
for mark in (0x53414e01, 0x53414e02, 1):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark); s.settimeout(1)
    try: s.connect(("{host}", 8081)); print("escaped by mark")
    except OSError: pass
for source in ("172.17.0.77", "10.77.0.1", "198.19.0.2"):
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    payload = struct.pack("!HHHH", 5353, 5353, 8 + 6, 0) + b"escape"
    head = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(payload), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton("{host}"))
    raw.sendto(head + payload, ("{host}", 0))
for port in (443, 53, 123):
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try: u.sendto(b"escape", ("{host}", port))
    except OSError: pass
END
        ping -c 1 -W 1 {host} >/dev/null && echo escaped by ping
        curl -sS --max-time 10 https://allowed.example/"""
    done = docker.run(["bash", "-c", story], "--cap-add", "NET_ADMIN")
    assert done.stdout.startswith("allowed.example at"), (done, gateway.log())
    assert not uplink.towards(host) and not uplink.carrying("escape"), uplink.packets()
