"""Captured networks over time: reload, dead workers, dead monitors, interfaces that come and go."""
import os
import signal
import subprocess

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import wait_until
from network import Bridge
from network_fixtures import NETWORK_POLICY, bridge, capture  # noqa: F401
from origins import address, make_big_file

NO_NETWORK = "policies: {agents: {allow: [allowed.example]}}\n"
SECOND = {4: "172.29.0.0/24", 6: "2001:db8:29::/64"}, {4: "172.29.0.1", 6: "2001:db8:29::1"}


@pytest.fixture
def gateway(bridge, capture, make_gateway):  # noqa: F811
    if capture == "tproxy":
        bridge.netfilter(False)
    return make_gateway(NETWORK_POLICY % f", capture: {capture}")


def ruleset(lab):
    return lab.host.output("nft", "list", "ruleset")


def works(box, lab, family=4):
    return box.do(*lab.client, "connect", address("denied.example", family), "9999").stdout


def start_again(gateway):
    """Not by its notice: an earlier one, of a worker's death, may be unread."""
    def served():
        try:
            return gateway.status()["ready"]
        except OSError:
            return False
    gateway.start(wait=False)
    wait_until(served, "the next gateway", 20)


def test_reload_adds_changes_and_removes_networks(bridge, make_gateway, capture):  # noqa: F811
    lab = bridge.lab
    make_big_file(lab)
    box = bridge.container()
    gateway = make_gateway(NO_NETWORK)
    if capture == "tproxy" and os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables"):
        gateway.write_policy(NETWORK_POLICY % f", capture: {capture}")
        refused = gateway.ask("reload")
        assert refused.returncode and "behind the bridge br-lab" in refused.stderr, refused
        bridge.netfilter(False)
    assert "sallyport" not in ruleset(lab) and not gateway.status()["networks"]
    assert box.curl("https://denied.example/", "--resolve", f"denied.example:443:{address('denied.example')}").returncode == 0
    gateway.write_policy(NETWORK_POLICY % f", capture: {capture}")
    gateway.told("reload")
    assert gateway.status()["networks"] == [{"name": "lab", "capture": capture, "served": True}]
    assert box.curl("https://allowed.example/").returncode == 0
    assert box.curl("https://denied.example/", "--resolve", f"denied.example:443:{address('denied.example')}").returncode == 35
    # Another policy: the flow that it still allows never notices, the other one is reset.
    stays = box.start("curl", "-sS", "--limit-rate", "5M", "-o", "/dev/null", "https://big.example/files/noise")
    gateway.await_event(lambda audit: audit.allowed("big.example"))
    gateway.write_policy(NETWORK_POLICY.replace("allowed.example", "other.example") % f", capture: {capture}")
    gateway.told("reload")
    assert box.curl("https://other.example/").returncode == 0
    assert box.curl("https://allowed.example/", "--resolve", f"allowed.example:443:{address('allowed.example')}").returncode == 35
    assert stays.poll() is None
    gateway.write_policy(NETWORK_POLICY.replace("big.example", "other.example") % f", capture: {capture}")
    gateway.told("reload")
    assert stays.wait(20) != 0
    stays.communicate()
    gateway.await_event(lambda audit: "policy_changed" in {event["event.reason"] for event in audit.ended("big.example")})
    gateway.write_policy(NO_NETWORK)
    gateway.told("reload")
    assert "sallyport" not in ruleset(lab) and not gateway.status()["networks"]
    assert "fwmark" not in lab.host.output("ip", "rule") + lab.host.output("ip", "-6", "rule")
    assert box.curl("https://denied.example/", "--resolve", f"denied.example:443:{address('denied.example')}").returncode == 0


def test_a_network_that_cannot_be_captured_refuses_the_configuration(bridge, make_gateway):  # noqa: F811
    gateway = make_gateway(NO_NETWORK)
    ranges = ", ".join(f'":{port}"' for port in range(1, 10001, 2))
    gateway.write_policy(f"policies: {{many: {{allow: [{ranges}]}}}}\nnetworks: [{{name: lab, interface: br-lab, policy: many}}]\n")
    refused = gateway.ask("reload")
    assert refused.returncode and "4999 separate ranges" in refused.stderr, refused
    assert gateway.status()["networks"] == [] and "sallyport" not in ruleset(bridge.lab)
    gateway.write_policy(NO_NETWORK)
    assert gateway.ask("reload").returncode == 0


def test_the_way_out_of_the_host_is_not_captured(bridge, make_gateway):  # noqa: F811
    gateway = make_gateway(NO_NETWORK)
    for interface in ("uplink", "'up*'"):
        gateway.write_policy(f"policies: {{agents: {{}}}}\nnetworks: [{{name: lab, interface: {interface}, policy: agents}}]\n")
        refused = gateway.ask("reload")
        assert refused.returncode and "uplink carries a default route" in refused.stderr, refused
    assert "sallyport" not in ruleset(bridge.lab)


def test_an_interface_that_comes_later_is_captured(gateway, bridge, family):
    lab = bridge.lab
    later = Bridge(lab, "br-later", *SECOND)
    gateway.write_policy((NETWORK_POLICY % "").replace("br-lab", '"br-l*"').replace("172.28.0.0/29", "172.29.0.0/24").replace(
        "2001:db8:28::/125", "2001:db8:29::/64"))
    gateway.told("reload")
    try:
        box = later.create().container()
        assert box.curl("https://allowed.example/", f"-{family}").returncode == 0
        assert works(box, lab, family).startswith("ECONNREFUSED")
        later.remove()
        box = later.create().container()
        assert box.curl("https://allowed.example/", f"-{family}").returncode == 0
    finally:
        later.close()


def test_a_dead_worker_is_replaced(gateway, bridge, family):
    box = bridge.container()
    uplink = gateway.lab.capture()
    gateway.await_new_worker(gateway.kill_worker())
    assert box.curl("https://allowed.example/", f"-{family}").returncode == 0
    assert not [packet for packet in uplink.packets() if packet.source in box.address.values()]


def test_without_a_gateway_the_network_is_closed_and_with_the_next_one_served(gateway, bridge, family):
    box = bridge.container()
    uplink = gateway.lab.capture()
    before = ruleset(gateway.lab)
    for end in (gateway.kill, gateway.stop):
        end()
        assert "sallyport-network" in ruleset(gateway.lab)
        host = address("allowed.example", family)
        refused = box.curl("https://allowed.example/", "--resolve", f"allowed.example:443:{'[%s]' % host if family == 6 else host}")
        assert refused.returncode == 7, refused
        assert "no servers could be reached" in box.do("dig", "+time=1", "+tries=1", "allowed.example").stdout
        assert works(box, gateway.lab, family).startswith("ECONNREFUSED")
        gateway.start()
        assert box.curl("https://allowed.example/", f"-{family}").returncode == 0
    assert not [packet for packet in uplink.packets() if packet.source in box.address.values()]
    assert len(ruleset(gateway.lab).splitlines()) == len(before.splitlines())


def test_killed_under_load_nothing_escapes(gateway, bridge, family):
    """kill -9 of worker, of monitor, of both, while containers load pages as fast as they can."""
    lab = gateway.lab
    boxes = [bridge.container() for _ in range(3)]
    uplink = lab.capture()
    target = address("denied.example", family)
    loop = f"while true; do curl -s -m 5 -{family} -o /dev/null https://allowed.example/; " \
           f"curl -s -m 5 -o /dev/null --resolve denied.example:443:{'[%s]' % target if family == 6 else target} " \
           "https://denied.example/; done"
    loads = [box.start("sh", "-c", loop) for box in boxes]
    try:
        for _ in range(2):
            seen = len(gateway.audit(complete=False).allowed("allowed.example"))
            gateway.await_event(lambda audit: len(audit.allowed("allowed.example")) > seen + 3, "load")
            gateway.await_new_worker(gateway.kill_worker(), 3)
            gateway.kill()
            start_again(gateway)
            worker = gateway.worker()
            os.kill(worker, signal.SIGKILL)
            gateway.process.kill()
            gateway.process.wait()
            start_again(gateway)
        seen = len(gateway.audit(complete=False).allowed("allowed.example"))
        gateway.await_event(lambda audit: len(audit.allowed("allowed.example")) > seen + 3, "service after all that")
    finally:
        for load in loads:
            load.kill()
            load.communicate()
    own = {host for box in boxes for host in box.address.values()}
    assert not [packet for packet in uplink.packets() if packet.source in own]


def test_rules_are_removed_for_good_by_a_command(gateway, bridge):
    lab = gateway.lab
    command = lab.host.enter([lab.binary, "gateway", "--remove-networks", "--control", gateway.control])
    refused = subprocess.run(command, text=True, capture_output=True, env=lab.environment())
    assert refused.returncode == 1 and "a gateway answers" in refused.stderr, refused
    gateway.kill()
    assert "sallyport-network" in ruleset(lab)
    done = subprocess.run(command, text=True, capture_output=True, env=lab.environment())
    assert done.returncode == 0, done
    assert "sallyport-network" not in ruleset(lab)
    assert "fwmark" not in lab.host.output("ip", "rule") + lab.host.output("ip", "-6", "rule")
    assert bridge.container().do(*lab.client, "connect", address("denied.example"), "443").stdout.startswith("connected")


def test_a_start_without_networks_removes_what_the_last_one_left(gateway, bridge):
    gateway.kill()
    assert "sallyport-network" in ruleset(gateway.lab)
    gateway.write_policy(NO_NETWORK)
    gateway.start()
    assert "sallyport-network" not in ruleset(gateway.lab)


def test_idle_sources_are_forgotten_and_busy_ones_are_not_mixed_up(gateway, bridge):
    """Many sources at once, each with its own limit."""
    gateway.write_policy((NETWORK_POLICY % "").replace("agents: {allow:", "agents: {limits: {flows_per_container: 2}, allow:"))
    gateway.told("reload")
    first, second = bridge.container(), bridge.container()
    host = address("big.example")
    hold = ["bash", "-c", f'exec 3<>/dev/tcp/{host}/443 4<>/dev/tcp/{host}/443 5<>/dev/tcp/{host}/443; echo up; '
            'head -c 1 <&5; echo over; sleep 20']
    held = first.start(*hold)
    assert held.stdout.readline() == "up\n" and held.stdout.readline() == "over\n", "the third one is refused"
    gateway.await_event(lambda audit: "limit_connections" in audit.reasons())
    assert second.curl("https://allowed.example/").returncode == 0, "another source has its own limit"
    held.kill()
    held.communicate()
    wait_until(lambda: first.curl("https://allowed.example/").returncode == 0, "room again")
