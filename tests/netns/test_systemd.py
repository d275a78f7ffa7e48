"""The package under a real systemd, with all that the unit forbids in force (machine.py)."""
import os
import re
import shutil
import signal
import subprocess

import pytest

import machine
from lab import NAME_SERVER, TIMEOUT, missing_programs, wait_until
from network import Bridge
from origins import address
from package_fixtures import package  # noqa: F401
from test_gateway_daemon import ask_again, hold_flow
from test_publish import serve

HEAD = f"""version: 1
gateway: {{resolvers: [{NAME_SERVER}], audit: {{file: /var/log/sallyport/audit.jsonl}}%s}}
destinations: {{allow: [198.18.0.0/15, "2001:db8::/32"]}}
"""
POLICY = HEAD % "" + """
policies: {agents: {allow: [allowed.example]}}
default: deny
"""
CONFIG, AUDIT = "/etc/sallyport/sallyport.yaml", "/var/log/sallyport/audit.jsonl"


@pytest.fixture
def host(lab, package, tmp_path):
    """A machine with the package installed, and whatever its installation did."""
    made = machine.boot(lab, tmp_path)
    try:
        install(made, package)
        yield made
    finally:
        made.close()


@pytest.fixture
def agents(host):
    """The same with a policy, and a container that has it."""
    write(host, POLICY)
    host.ok("systemctl", "reload", "sallyport")
    host.box = enroll(host)
    return host


def install(host, deb):
    shutil.copy(deb, host.path("/tmp/sallyport.deb"))
    return host.ok("dpkg", "-i", "/tmp/sallyport.deb")


def write(host, text):
    with open(host.path(CONFIG), "w") as file:
        file.write(text)


def enroll(host, *options, policy="agents"):
    box = host.container()
    box.id = f"box-{len(host.containers)}"
    host.ok("sallyport", "enroll", "--pid", box.pid_there, "--id", box.id, "--policy", policy, *options)
    return box


def served(box):
    return box.curl("https://allowed.example/").returncode == 0


def shut(box):
    """Nothing gets out, also for who knows the address."""
    place = address("allowed.example")
    return all(box.curl(f"{scheme}://allowed.example/", "--fail", "--resolve", f"allowed.example:{port}:{place}").returncode
               for scheme, port in (("https", 443), ("http", 80)))


def main(host):
    return host.outer_pid(int(host.show("MainPID")))


def cookies(box):
    """The sockets that listen in there: the same ones have the same cookies."""
    return sorted(re.findall(r"sk:(\w+)", box.output("ss", "-Htlne")))


def await_restart(host, before):
    wait_until(lambda: host.show("NRestarts") > before and host.show("SubState") == "running", "the service to be up again", 20)


# --- the life of a service -------------------------------------------------------------------------------------------

def test_installed_it_runs_is_enabled_and_lets_nothing_out(host):
    assert (host.show("ActiveState"), host.show("UnitFileState"), host.show("NRestarts")) == ("active", "enabled", "0"), host.journal()
    assert "Landlock" not in host.journal(), "the unit must not take the worker's own confinement away"
    box = enroll(host, policy="deny")
    assert shut(box) and not served(box)
    assert "dns-denied" in host.ok("cat", AUDIT)
    modes = host.ok("stat", "-c", "%a %U", "/run/sallyport", "/var/lib/sallyport", "/var/log/sallyport", AUDIT).splitlines()
    assert modes == ["755 root", "700 root", "750 root", "600 root"]


def test_it_serves_reloads_and_says_why_not(agents):
    assert served(agents.box) and agents.box.curl("https://denied.example/").returncode
    version = agents.show("StatusText")
    write(agents, POLICY.replace("allow:", "alow:"))
    assert agents.systemctl("reload", "sallyport").returncode
    assert re.search(r"sallyport\.yaml:\d+:\d+: .*alow", agents.journal()), agents.journal()
    assert served(agents.box) and agents.show("StatusText") != version != ""
    write(agents, POLICY.replace("allowed.example", "denied.example"))
    agents.ok("systemctl", "reload", "sallyport")
    assert agents.box.curl("https://denied.example/").returncode == 0 and not served(agents.box)


def test_a_killed_monitor_is_back_with_the_very_same_sockets(agents):
    box, before, restarts = agents.box, cookies(agents.box), agents.show("NRestarts")
    kept = agents.show("NFileDescriptorStore")
    assert int(kept) > 1 and before
    os.kill(main(agents), signal.SIGKILL)
    assert served(box), "what comes while nobody is there waits"
    await_restart(agents, restarts)
    assert (cookies(box), agents.show("NFileDescriptorStore")) == (before, kept)
    agents.ok("sallyport", "verify", box.id)
    agents.ok("systemctl", "restart", "sallyport")
    assert served(box) and cookies(box) == before


def test_a_monitor_that_hangs_is_replaced(agents):
    assert agents.show("WatchdogUSec") == "10s"
    folder = "/run/systemd/system/sallyport.service.d"
    agents.ok("sh", "-c", f"mkdir -p {folder} && printf '[Service]\\nWatchdogSec=1s\\n' >{folder}/impatient.conf && "
              "systemctl daemon-reload && systemctl restart sallyport")
    agents.ok("sallyport", "upgrade")  # who took over is watched as well
    restarts = agents.show("NRestarts")
    os.kill(main(agents), signal.SIGSTOP)
    await_restart(agents, restarts)
    assert "Watchdog timeout" in agents.journal() and served(agents.box)


def test_an_upgrade_of_the_package_loses_no_connection(agents, package, tmp_path):
    flow, before, sockets = hold_flow(agents.box), main(agents), cookies(agents.box)
    tree = tmp_path / "newer"
    for command in (["dpkg-deb", "-R", package, tree],
                    ["sed", "-i", "s/^Version: .*/Version: 99.0/", tree / "DEBIAN/control"],
                    ["dpkg-deb", "--root-owner-group", "-b", tree, tmp_path / "newer.deb"]):
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=TIMEOUT)
    said = install(agents, tmp_path / "newer.deb")
    assert agents.ok("dpkg-query", "-W", "-f", "${Version}", "sallyport") == "99.0"
    assert main(agents) != before and f"process {agents.show('MainPID')} is the gateway now" in said, said
    assert (agents.show("ActiveState"), agents.show("NRestarts")) == ("active", "0"), agents.journal()
    assert ask_again(flow) == "HTTP/1.1 200 OK" and served(agents.box) and cookies(agents.box) == sockets
    with open(agents.path(CONFIG)) as file:
        assert file.read() == POLICY, "the administrator's file stays"
    # The new one is the service: systemd notices its end, and stops it.
    restarts = agents.show("NRestarts")
    os.kill(main(agents), signal.SIGKILL)
    await_restart(agents, restarts)
    assert served(agents.box)
    agents.ok("systemctl", "stop", "sallyport")
    assert agents.show("Result") == "success"


def test_stopped_it_stays_closed_and_started_it_serves_again(agents):
    agents.ok("systemctl", "stop", "sallyport")
    assert (agents.show("ActiveState"), agents.show("Result")) == ("inactive", "success"), agents.journal()
    uplink = agents.lab.capture()
    assert shut(agents.box) and not uplink.packets()
    agents.ok("systemctl", "start", "sallyport")
    assert served(agents.box)


def test_removed_and_purged_nothing_is_left(agents):
    agents.ok("dpkg", "-r", "sallyport")
    assert agents.show("ActiveState") == "inactive" and shut(agents.box)
    agents.ok("dpkg", "-P", "sallyport")
    assert agents.show("LoadState") == "not-found"
    left = agents.ok("find", "/etc", "/usr/bin", "/lib/systemd", "/usr/lib/tmpfiles.d", "/usr/lib/sysusers.d", "/var/lib", "/var/log", "/run",
                     "-xdev", "-name", "*sallyport*", "-not", "-path", "/var/lib/dpkg/*").split()
    assert not left


def test_logrotate_has_the_audit_log_opened_anew(agents):
    if missing_programs("logrotate"):
        pytest.skip("not installed: logrotate (scripts/install-deps package)")
    assert served(agents.box)
    before = os.stat(agents.path(AUDIT)).st_ino
    agents.ok("logrotate", "--force", "/etc/logrotate.d/sallyport")
    wait_until(lambda: os.path.exists(agents.path(AUDIT)) and os.stat(agents.path(AUDIT)).st_ino != before, "a new audit log")
    assert os.stat(agents.path(AUDIT + ".1")).st_ino == before and served(agents.box)
    wait_until(lambda: '"flow-allowed"' in agents.ok("cat", AUDIT), "the flow in the new one")


# --- what the unit forbids must be nothing that is needed --------------------------------------------------------------

def test_ports_below_1024_are_published(agents):
    box = enroll(agents, "--publish", "82:9001")
    serve(box, 9001)
    told = agents.lab.host.output("python3", "-c", "import socket; print(socket.create_connection(('127.0.0.1', 82), 10).recv(99))")
    assert "hello" in told, agents.journal()


def test_udp_and_ping_by_name(agents):
    agents.lab.host.run("sh", "-c", "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range")
    write(agents, HEAD % "" + "policies: {agents: {allow: ['icmp://allowed.example', 'udp://name-server.example:53']}}\ndefault: deny\n")
    agents.ok("systemctl", "reload", "sallyport")
    box, place = enroll(agents), address("allowed.example")
    assert place in box.do("dig", "+short", "allowed.example").stdout
    assert box.do("ping", "-n", "-c", "1", "-W", "5", place).returncode == 0, agents.journal()


def test_a_namespace_by_its_path_and_refused_packets_with_a_reason(agents):
    agents.ok("ip", "netns", "add", "pod")  # a mount that came after the service
    agents.ok("sallyport", "enroll", "--netns", "/run/netns/pod", "--id", "pod", "--policy", "agents")
    agents.ok("sallyport", "verify", "pod")
    assert agents.run("ip", "netns", "exec", "pod", "bash", "-c", f"exec 3<>/dev/tcp/{address('allowed.example')}/81").returncode
    wait_until(lambda: '"port_denied"' in agents.ok("cat", AUDIT), "the refused packet in the log")


def test_api_metrics_a_watched_file_and_several_workers(agents):
    write(agents, POLICY.replace("jsonl}", "jsonl}, admin: {listen: 127.0.0.1:9464}, watch: true, workers: 2"))
    agents.ok("systemctl", "restart", "sallyport")
    assert served(agents.box)
    health = ["curl", "-sS", "--unix-socket", "/run/sallyport/api.sock", "http://localhost/healthz"]
    assert agents.run(*health).returncode == 0
    assert "sallyport_containers 1" in agents.ok("curl", "-sS", "http://127.0.0.1:9464/metrics")
    before = agents.show("StatusText")
    with open(agents.path(CONFIG), "a") as file:
        file.write("# a change\n")
    wait_until(lambda: agents.show("StatusText") != before, "the changed file in force")


def test_a_network_is_captured_and_released_with_the_package(agents):
    bridge = Bridge(agents.lab).create()
    try:
        write(agents, POLICY + "networks: [{name: lab, interface: br-lab}]\nassign: [{subnet: 172.28.0.0/24, policy: agents}]\n")
        agents.ok("systemctl", "reload", "sallyport")
        box = bridge.container()
        assert box.curl("https://allowed.example/", "-4").returncode == 0, agents.journal()
        place = address("denied.example")
        assert box.curl("https://denied.example/", "-4", "--resolve", f"denied.example:443:{place}").returncode == 35
        agents.ok("systemctl", "stop", "sallyport")
        assert box.curl("https://allowed.example/", "-4", "--resolve", f"allowed.example:443:{address('allowed.example')}").returncode
        agents.ok("dpkg", "-r", "sallyport")
        assert "sallyport" not in agents.lab.host.output("nft", "list", "tables")
    finally:
        bridge.close()
        agents.lab.host.run("nft", "delete", "table", "inet", "sallyport-network", check=False, capture_output=True)
