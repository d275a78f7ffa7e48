"""Network capture: containers behind a bridge of the gateway's host, told apart by their source address."""
import re

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import missing_programs, wait_until
from network import Routed
from network_fixtures import NETWORK_POLICY, bridge, capture, gateway  # noqa: F401
from origins import address


def test_before_they_are_routed_to_the_internet(bridge, family):
    box = bridge.container()
    assert box.do(*bridge.lab.client, "connect", address("denied.example", family), "443").stdout.startswith("connected")


def test_they_reach_what_their_policy_allows_and_nothing_else(gateway, bridge, family):
    box = bridge.container()
    uplink = gateway.lab.capture()
    allowed = box.curl("https://allowed.example/", f"-{family}")
    assert allowed.stdout.startswith(f"allowed.example at {address('allowed.example', family)}"), (allowed, gateway.log())
    assert box.curl("http://allowed.example/", f"-{family}").stdout.startswith("allowed.example")
    host = address("denied.example", family)
    assert box.curl("https://denied.example/", f"-{family}", "--resolve", f"denied.example:443:{host}").returncode == 35
    refused = box.curl("http://denied.example/", f"-{family}", "--resolve", f"denied.example:80:{host}")
    assert "reason: no_rule" in refused.stdout, refused
    for port in ("8081", "25"):
        told = box.do(*gateway.lab.client, "connect", host, port).stdout
        assert told.startswith("ECONNREFUSED") and float(told.split()[1]) < 1, told
    box.do(*gateway.lab.client, "udp", host, "443")
    assert box.do("ping", "-c", "1", "-W", "1", host).returncode
    assert "NXDOMAIN" in box.do("dig", f"@{address('name-server.example', family)}", "denied.example").stdout
    assert "NXDOMAIN" in box.do("dig", "+tcp", f"@{address('name-server.example', family)}", "denied.example").stdout
    assert not uplink.towards(host)
    assert not [packet for packet in uplink.packets() if packet.source in box.address.values()]
    gateway.await_event(lambda audit: {"8081", "25"} <= {str(event.get("destination.port")) for event in audit.where(
        event_action="packet-denied", source_ip=box.address[family])}, "the refused ports")


def test_events_tell_network_and_source_address(gateway, bridge, family):
    box = bridge.container()
    box.curl("https://allowed.example/", f"-{family}")
    box.do("dig", f"@{address('name-server.example', family)}", "denied.example")
    gateway.await_event(lambda audit: audit.ended("allowed.example") and audit.dns_denied())
    audit = gateway.audit(complete=False)
    flow, question = audit.allowed("allowed.example")[0], audit.where(event_action="dns-denied")[0]
    for event in (flow, question):
        assert event["network.name"] == "lab" and event["source.ip"] == box.address[family], event
        assert event["rule.ruleset"] == "agents" and "container.id" not in event and "container.name" not in event, event
    assert flow["destination.ip"] == address("allowed.example", family)


def test_the_source_address_decides_which_policy_holds(gateway, bridge):
    boxes = [bridge.container() for _ in range(7)]
    agent, other = boxes[0], boxes[6]
    assert other.address[4] == "172.28.0.8"
    assert agent.curl("https://allowed.example/", "-4").returncode == 0
    assert agent.curl("https://other.example/", "-4", "--resolve",
                      f"other.example:443:{address('other.example', 4)}").returncode == 35
    assert other.curl("https://other.example/", "-4").returncode == 0
    assert other.curl("https://allowed.example/", "-4", "--resolve",
                      f"allowed.example:443:{address('allowed.example', 4)}").returncode == 35
    assert other.curl("https://other.example/", "-6", "--resolve",
                      f"other.example:443:[{address('other.example', 6)}]").returncode == 35, "IPv6 has no rule: the default"
    gateway.await_event(lambda audit: len(audit.denied("other.example")) == 2)
    rulesets = {(event["source.ip"], event["rule.ruleset"]) for event in gateway.audit(complete=False).denied()}
    assert rulesets == {(agent.address[4], "agents"), (other.address[4], "others"), (other.address[6], "deny")}, rulesets


def test_ssh_by_name(gateway, bridge, family):
    box = bridge.container()
    box.do("dig", "+short", "ssh.example", "AAAA" if family == 6 else "A")
    told = box.do("bash", "-c", 'exec 3<>"/dev/tcp/$0/22"; head -c 7 <&3', address("ssh.example", family))
    assert told.stdout == "SSH-2.0", (told, gateway.log())
    box.do(*gateway.lab.client, "connect", address("denied.example", family), "22")
    gateway.await_event(lambda audit: "destination_unbound" in audit.reasons())


def test_a_foreign_source_address_is_dropped_and_told(gateway, bridge, family):
    box = bridge.container()
    uplink = gateway.lab.capture()
    foreign = {4: "10.9.9.9", 6: "2001:db8:99::9"}[family]
    box.run("ip", "addr", "add", f"{foreign}/{32 if family == 4 else 128}", "dev", "eth0", *(["nodad"] if family == 6 else []))
    target = address("allowed.example", family)
    sent = box.do("curl", "-sS", "--max-time", "2", "--interface", foreign, "--resolve",
                  f"allowed.example:443:{'[%s]' % target if family == 6 else target}", "https://allowed.example/")
    assert sent.returncode == 28, sent
    assert not uplink.towards(target)
    gateway.await_event(lambda audit: audit.where(event_action="packet-denied", source_ip=foreign), "the spoofed packet")
    assert "none of the network's" in gateway.audit(complete=False).where(
        event_action="packet-denied", source_ip=foreign)[0]["sallyport.detail"]


def test_of_the_host_they_reach_nothing_but_dns_and_what_is_redirected(gateway, bridge, family, capture):
    box = bridge.container()
    server = gateway.lab.host.spawn(["python3", "-c", "import socket; s = [socket.create_server(('::', port), family=socket."
                                     "AF_INET6, dualstack_ipv6=True) for port in (9001, 8080)]; print('up', flush=True); "
                                     "s[0].accept()"], stdout=-1)
    assert server.stdout.readline()
    try:
        for port in ("9001", "8080"):
            told = box.do(*gateway.lab.client, "connect", bridge.host[family], port).stdout
            assert told.startswith("ECONNREFUSED"), told
        assert box.do("ping", "-c", "1", "-W", "1", bridge.host[family]).returncode
        assert "NXDOMAIN" in box.do("dig", f"@{bridge.host[family]}", "denied.example").stdout
        # The host itself is asked for by its address: refused, redirected by the gateway as its own machine.
        told = box.curl(f"http://{'[%s]' % bridge.host[6] if family == 6 else bridge.host[4]}/")
        assert "reason: " in told.stdout or capture == "tproxy" and told.returncode == 7, told
    finally:
        server.kill()
        server.wait()


def test_nobody_else_reaches_the_listeners(gateway, bridge, family):
    box = bridge.container()
    lines = gateway.lab.host.output("ss", "-Hltnu").splitlines()
    ports = sorted({line.split()[4].rsplit(":", 1)[1] for line in lines if ":194" in line.split()[4]})
    assert len(ports) == 2, lines
    for port in ports:
        for place, target in ((box, bridge.host[family]), (gateway.lab.internet, {4: "198.19.0.2", 6: "2001:db8:5a1f::2"}[family]),
                              (gateway.lab.host, {4: "127.0.0.1", 6: "::1"}[family]), (gateway.lab.host, bridge.host[family])):
            reached = place.run("timeout", "1", *gateway.lab.client, "connect", target, port, check=False, capture_output=True)
            assert not reached.stdout.startswith("connected"), (target, port, reached)
    flows = [event for event in gateway.audit(complete=False) if event["event.action"].startswith("flow-")]
    assert not flows, flows


def test_nothing_comes_in_to_them_but_what_the_host_itself_asks(gateway, bridge, family):
    box = bridge.container()
    server = box.start("python3", "-c", "import socket; s = socket.create_server(('::', 9000), family=socket.AF_INET6, "
                       "dualstack_ipv6=True); print('up', flush=True)\nwhile True: s.accept()[0].sendall(b'hello')")
    assert server.stdout.readline() == "up\n"
    outside = gateway.lab.internet.run("timeout", "2", *gateway.lab.client, "connect", box.address[family], "9000", check=False,
                                       capture_output=True)
    assert not outside.stdout.startswith("connected"), outside
    host = gateway.lab.host.run(*gateway.lab.client, "connect", box.address[family], "9000", capture_output=True)
    assert host.stdout.startswith("connected"), "an engine may look after its containers"
    server.kill()
    server.communicate()


def test_dhcp_from_the_host(gateway, bridge):
    """What a link needs to live gets through: a lease from the host's server, and the routes that come with it."""
    if missing := missing_programs("busybox"):
        pytest.skip(f"not installed: {' '.join(missing)}")
    lab, box = gateway.lab, bridge.container()
    server = lab.host.spawn(["dnsmasq", "-k", "--port=0", f"--interface={bridge.name}", "--bind-interfaces", "--conf-file=/dev/null",
                             f"--dhcp-leasefile={lab.folder}/leases", "--pid-file=", "--dhcp-range=172.28.0.5,172.28.0.6,1h"])
    try:
        box.run("ip", "addr", "flush", "dev", "eth0", "scope", "global")
        script = lab.folder / "lease.sh"
        script.write_text('#!/bin/sh\n[ "$1" = bound ] && ip addr add $ip/$mask dev eth0 && ip route add default via $router\nexit 0\n')
        script.chmod(0o755)
        wait_until(lambda: "got" in (done := box.do("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "2", "-T", "1", "-s",
                                                    script)).stderr + done.stdout or "obtained" in done.stderr + done.stdout, "a lease", 20)
        assert re.search(r"172\.28\.0\.[56]", box.output("ip", "addr"))
        assert box.curl("https://allowed.example/", "-4").returncode == 0
    finally:
        server.kill()
        server.wait()


def test_a_bridge_with_several_addresses(gateway, bridge, family):
    """Redirection goes to the first one; answers must come from there whichever the container's network is."""
    more = {4: "172.31.7.1/24", 6: "fd31:7::1/64"}[family]
    inside = {4: "172.31.7.2/24", 6: "fd31:7::2/64"}[family]
    nodad = ["nodad"] if family == 6 else []
    host, box = gateway.lab.host, bridge.container()
    host.run("ip", "addr", "add", more, "dev", bridge.name, *nodad)
    gateway.write_policy(NETWORK_POLICY.replace("assign:", "assign:\n  - {subnet: 172.31.7.0/24, policy: agents}\n"
                                                "  - {subnet: 'fd31:7::/64', policy: agents}") % "")
    gateway.told("reload")
    bridge.netfilter(True)
    box.run("ip", f"-{family}", "addr", "flush", "dev", "eth0", "scope", "global")
    box.run("ip", "addr", "add", inside, "dev", "eth0", *nodad)
    box.run("ip", f"-{family}", "route", "replace", "default", "via", more.split("/")[0])
    server = address("name-server.example", family)
    assert "NXDOMAIN" in box.do("dig", "+tries=1", f"@{server}", "denied.example").stdout
    assert box.do("dig", "+tries=1", "+short", f"@{server}", "allowed.example").stdout.strip() == address("allowed.example")
    target = address("allowed.example", family)
    done = box.curl("https://allowed.example/", "--resolve", f"allowed.example:443:{'[%s]' % target if family == 6 else target}")
    assert done.stdout.startswith("allowed.example"), done


ROUTED = """
policies: {{agents: {{allow: [allowed.example]}}}}
networks: [{{name: lab, interface: lab-net, capture: {}, policy: agents{}}}]
"""


def test_a_network_behind_a_router(lab, make_gateway, capture, family):  # noqa: F811
    routed = Routed(lab)
    try:
        for subnets, foreign in (("", "10.9.9.9"), (f', subnets: [172.30.0.0/30, 172.30.5.0/24, "2001:db8:305::/64"]', "172.30.6.1")):
            gateway = make_gateway(ROUTED.format(capture, subnets))
            uplink = lab.capture()
            assert routed.box.curl("https://allowed.example/", f"-{family}").returncode == 0, gateway.log()
            host = address("denied.example", family)
            target = f"[{host}]" if family == 6 else host
            assert routed.box.curl("https://denied.example/", "--resolve", f"denied.example:443:{target}").returncode == 35
            assert routed.box.do(*lab.client, "connect", host, "8081").stdout.startswith("ECONNREFUSED")
            routed.box.run("ip", "addr", "replace", f"{foreign}/32", "dev", "eth0")
            spoofed = routed.box.do("curl", "-sS", "--max-time", "2", "--interface", foreign, f"http://{address('allowed.example')}/")
            assert spoofed.returncode == 28, spoofed
            gateway.await_event(lambda audit: audit.where(event_action="packet-denied", source_ip=foreign), "the spoofed packet")
            assert not uplink.towards(host)
            gateway.stop()
    finally:
        routed.close()
        lab.host.run("nft", "delete", "table", "inet", "sallyport-network", check=False, capture_output=True)
