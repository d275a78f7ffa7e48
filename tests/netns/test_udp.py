"""udp:// rules in sealed namespaces: through the relay, by name and by address, and nothing else."""
import json
import os
import shutil
import subprocess

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import HERE, ORDINARY_USER, UPLINK, missing_programs, wait_until
from origins import address

PORT = 7100
ECHO = "end.example"
SERVED = ("end.example", "allowed.example", "denied.example", "wild.example", "sub.wild.example")


@pytest.fixture(scope="module")
def tool(whole_lab):
    """A copy that an ordinary user can reach, wherever the checkout is."""
    shutil.copy(HERE / "datagrams.py", whole_lab.folder)
    return ["python3", str(whole_lab.folder / "datagrams.py")]


@pytest.fixture(scope="module")
def echo(whole_lab, tool):
    """An echo server at the addresses of some names."""
    places = [address(name, family) for name in SERVED for family in (4, 6)]
    whole_lab.internet.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
    server = whole_lab.internet.spawn([*tool, "serve", PORT, *places], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    yield
    server.kill()
    server.wait()


@pytest.fixture
def ask(tool, echo):
    return lambda *words: [*tool, "ask", *map(str, words)]


@pytest.fixture
def by_name(ask):
    """The client looks the name up, then sends to the address, as every client does."""
    def story(name, family, *words, port=PORT, server=""):
        kind = "AAAA" if family == 6 else "A"
        return ["sh", "-c", f'host=$(dig +short {server} {name} {kind} | tail -n 1) && exec "$0" "$@" $host {port} {" ".join(words)}',
                *ask()]
    return story


def net(name, family, port=PORT):
    return f"udp://{address(name, 4)}:{port}" if family == 4 else f"udp://[{address(name, 6)}]:{port}"


def denial(event):
    return event["network.transport"], event["destination.ip"], event.get("destination.port"), event["event.reason"]


# --- what is allowed ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_by_name(lab, by_name, family):
    """The name is what DNS answered the address for; the answer comes from where the client sent to."""
    place = address(ECHO, family)
    run = lab.exec(by_name(ECHO, family, "hello", "again", "twice"), allow=[f"udp://{ECHO}:{PORT}"]).ok()
    assert run.out.splitlines() == [f"'{text}' from {place} {PORT}" for text in ("hello", "again", "twice", "twice")]
    [event] = run.audit.allowed(ECHO)
    assert (event["network.transport"], event["destination.ip"], event["destination.port"], event["sallyport.binding"]) == (
        "udp", place, PORT, "dns")
    assert event["rule.name"] == f"udp://{ECHO}:{PORT}"
    [end] = run.audit.ended(ECHO)
    assert end["source.bytes"] == len("helloagaintwice") and end["destination.bytes"] == len("helloagaintwicetwice")


@pytest.mark.smoke
def test_by_address(lab, ask, family):
    uplink = lab.capture()
    run = lab.exec(ask(address(ECHO, family), PORT, "hello"), allow=[net(ECHO, family)]).ok()
    assert run.out == f"'hello' from {address(ECHO, family)} {PORT}\n"
    [event] = run.audit.allowed()
    assert event["sallyport.binding"] == "address" and event["rule.name"] == net(ECHO, family)
    assert {packet.source for packet in uplink.towards(address(ECHO, family))} == {UPLINK[family][0]}


def test_as_an_ordinary_user(lab, by_name, family):
    run = lab.exec(by_name(ECHO, family, "hello"), allow=[f"udp://{ECHO}:{PORT}"], user=ORDINARY_USER).ok()
    assert run.out == f"'hello' from {address(ECHO, family)} {PORT}\n"


def test_an_unconnected_client_and_ranges(lab, ask, family):
    rule = net(ECHO, family, "7000-7200")
    run = lab.exec(ask("--unconnected", address(ECHO, family), PORT, "one", "two"), allow=[rule]).ok()
    assert run.out.splitlines() == [f"'{text}' from {address(ECHO, family)} {PORT}" for text in ("one", "two")]
    assert len(run.audit.allowed()) == 1  # one association


@pytest.mark.smoke
def test_an_address_that_nobody_looked_up(lab, ask, family):
    """As an NTP client's, who looked its server up weeks ago: the gateway asks whether the address is one of the rule's name."""
    rules = [f"udp://big.example:{PORT}", f"udp://{ECHO}:{PORT}", f"udp://*.example:{PORT + 1}", "udp://nowhere.example:*"]
    run = lab.exec(ask(address(ECHO, family), PORT, "hello", "again"), allow=rules).ok()
    assert run.out.splitlines() == [f"'{text}' from {address(ECHO, family)} {PORT}" for text in ("hello", "again")]
    [event] = run.audit.allowed(ECHO)
    assert event["sallyport.binding"] == "resolved" and event["rule.name"] == rules[1]
    run = lab.exec(ask("--wait", "1", address(ECHO, family), PORT + 1, "hello"), allow=[f"udp://*.example:{PORT + 1}"])
    assert run.audit.reasons() == {"no_rule"}  # nobody can look a wildcard up


def test_a_wildcard_covers_what_is_below(lab, by_name, family):
    rule = [f"udp://*.wild.example:{PORT}"]
    assert "hello" in lab.exec(by_name("sub.wild.example", family, "hello"), allow=rule).ok().out
    run = lab.exec(by_name("wild.example", family, "hello", server=""), allow=[*rule, "wild.example"])
    assert "hello" not in run.out and run.audit.denied("wild.example")


@pytest.mark.parametrize("family, largest", [(4, 65507), (6, 65487)])
def test_datagrams_of_any_size(lab, tool, echo, family, largest):
    sizes = [0, 1, 2, 1231, 1472, 1473, 9000, 32768, 65000, largest]
    run = lab.exec([*tool, "big", address(ECHO, family), str(PORT), *map(str, sizes)], allow=[net(ECHO, family)]).ok()
    assert run.out.splitlines() == [f"{size} whole" for size in sizes]


def test_many_destinations_from_one_socket(lab, tool, echo):
    places = [address(name, family) for name in SERVED for family in (4, 6)]
    rules = [net(name, family) for name in SERVED if name != "denied.example" for family in (4, 6)]
    run = lab.exec([*tool, "many", str(PORT), *places], allow=rules)
    answered = [line for line in run.out.splitlines() if "from" in line]
    assert answered == [f"'{place}' from {place} {PORT}" for place in places if place not in
                        (address("denied.example", 4), address("denied.example", 6))]
    assert len(run.audit.allowed()) == len(rules)


def test_many_sockets_at_once(lab, tool, echo):
    run = lab.exec([*tool, "spread", "300", address(ECHO), str(PORT)], allow=[net(ECHO, 4)]).ok()
    assert run.out == "300\n" and len(run.audit.allowed()) == 300


def test_the_last_datagram_before_the_end_still_goes_out(lab, echo):
    """Nobody waits for an answer, as with syslog and statsd."""
    uplink = lab.capture()
    story = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'farewell', ('{address(ECHO)}', {PORT}))"
    lab.exec(["python3", "-c", story], allow=[net(ECHO, 4)]).ok()
    assert uplink.carrying("farewell")


# --- what is not ----------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_another_port_is_refused_at_once(lab, ask, family):
    uplink = lab.capture()
    run = lab.exec(ask(address(ECHO, family), PORT + 1, "hello"), allow=[net(ECHO, family)])
    assert run.out.startswith("send ")
    [event] = run.audit.where(event_action="packet-denied")
    assert denial(event) == ("udp", address(ECHO, family), PORT + 1, "port_denied")
    assert not uplink.packets()


def test_quic_stays_refused_beside_other_rules(lab, ask, family):
    run = lab.exec(ask(address("allowed.example", family), 443, "hello"), allow=["allowed.example", net(ECHO, family)])
    assert run.out.startswith("send ") and run.audit.where(event_action="packet-denied")


@pytest.mark.smoke
@pytest.mark.parametrize("connected", [True, False])
def test_another_address_is_refused_at_once(lab, ask, family, connected):
    """A connected client gets an error; the other kind nothing, as with any packet filter. Either is told once."""
    uplink = lab.capture()
    options = ["--wait", "1", *([] if connected else ["--unconnected"])]
    run = lab.exec(ask(*options, address("denied.example", family), PORT, "one", "two"), allow=[f"udp://{ECHO}:{PORT}"])
    expected = {4: "EHOSTUNREACH", 6: "EACCES"}[family] if connected else "TimeoutError"
    assert {line.removeprefix("send ") for line in run.out.splitlines()} == {expected}
    [event] = run.audit.denied()
    assert denial(event) == ("udp", address("denied.example", family), PORT, "no_rule")
    assert "udp " in run.summary and not uplink.towards(address("denied.example", family))


def test_another_name_on_the_same_port(lab, by_name, family):
    run = lab.exec(by_name("denied.example", family, "--wait", "1", "hello"), allow=[f"udp://{ECHO}:{PORT}", "denied.example"])
    assert "hello" not in run.out
    [event] = run.audit.denied("denied.example")
    assert event["event.reason"] == "no_rule"


def test_deny_rules_beat_allow_rules(lab, by_name, ask):
    policy = lab.config(f"""
version: 1
policies:
  story:
    allow: ["udp://*:{PORT}", "udp://0.0.0.0/0:{PORT}", "udp://198.18.0.0/16:{PORT}"]
    deny: [denied.example, "udp://sub.wild.example:*", {address(ECHO)}]
""")
    def said(command):
        run = lab.exec(command, config=policy, options=["--policy", "story"])
        return run.out, run.audit.reasons()
    assert "hello" in said(by_name("allowed.example", 4, "hello"))[0]
    assert said(by_name("sub.wild.example", 4, "--wait", "1", "hello"))[1] == {"rule_deny"}
    assert said(by_name(ECHO, 4, "--wait", "1", "hello"))[1] == {"rule_deny"}  # by its address


@pytest.mark.parametrize("place", ["127.0.0.9", "169.254.169.254", "10.1.2.3", "224.0.0.251", "198.19.0.2", "255.255.255.255"])
def test_guarded_places_stay_shut(lab, ask, place):
    """Wherever a rule for every address says. Loopback is the namespace's own, and has nothing to do with the gateway."""
    uplink = lab.capture()
    run = lab.exec(ask("--wait", "0.5", place, PORT, "hello"), allow=[f"udp://0.0.0.0/0:{PORT}"], destinations=False)
    assert "from" not in run.out and not uplink.packets()
    assert run.audit.reasons() <= {"destination_guarded"}
    if place in ("169.254.169.254", "10.1.2.3", "198.19.0.2"):
        assert run.audit.denied()


def test_the_gateways_own_socket_is_no_destination(lab, tool, echo):
    """Who finds the port of the transparent socket can send to it, and is told that this is a loop."""
    story = """
import socket
ports = [int(line.split()[1].split(":")[1], 16) for line in open("/proc/net/udp").readlines()[1:]]
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in ports:
    client.sendto(b"x", ("127.0.0.1", port))
"""
    run = lab.exec(["python3", "-c", story], allow=[net(ECHO, 4)]).ok()
    assert run.audit.reasons() == {"loop"}


def test_dns_stays_the_gateways(lab, echo):
    """A rule for port 53 changes nothing: what is asked there is answered by the policy."""
    uplink = lab.capture()
    run = lab.exec(["dig", "@198.18.2.1", "+tries=1", "+time=2", "denied.example"], allow=["udp://198.18.0.0/16:*"])
    assert "NXDOMAIN" in run.out and run.audit.dns_denied() == {"denied.example"}
    assert not uplink.towards("198.18.2.1")


def test_audit_mode_lets_through_and_says_so(lab, ask, family):
    run = lab.exec(ask(address(ECHO, family), PORT, "hello"), allow=["allowed.example"], options=["--audit-only"]).ok()
    assert "hello" in run.out
    [event] = run.audit.allowed()
    assert event["sallyport.would_deny"] and event["network.transport"] == "udp" and "would have been denied" in run.summary


def test_with_a_proxy_nothing_goes_past_it(lab, ask):
    uplink = lab.capture()
    policy = lab.config(f"""
version: 1
gateway: {{upstream: "http://198.18.9.9:3128"}}
policies: {{story: {{allow: ["{net(ECHO, 4)}"]}}}}
""")
    run = lab.exec(ask("--wait", "1", address(ECHO), PORT, "hello"), config=policy)
    assert run.audit.reasons() == {"connect_failed"} and "proxy" in run.audit.denied()[0]["sallyport.detail"]
    assert not uplink.packets()


def test_errors_of_the_origin_are_passed_on(lab, ask, family):
    run = lab.exec(ask(address(ECHO, family), PORT + 5, "one", "two"), allow=[net(ECHO, family, "*")]).ok()
    assert run.out.splitlines()[0] == "ECONNREFUSED"


def test_flows_have_a_limit(lab, tool, echo):
    policy = lab.config(f"""
version: 1
policies: {{story: {{allow: ["{net(ECHO, 4)}"], limits: {{flows_per_container: 20}}}}}}
""")
    run = lab.exec([*tool, "spread", "30", address(ECHO), str(PORT)], config=policy).ok()
    assert run.out == "20\n" and len(run.audit.allowed()) == 20
    assert run.audit.reasons() == {"limit_connections"}


# --- real programs --------------------------------------------------------------------------------------------------

def needs(*programs):
    missing = missing_programs(*programs)
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)} (scripts/install-deps test)")


@needs("dnsmasq", "dig")
def test_a_name_server_on_another_port(lab, family):
    place = address("allowed.example", family)
    server = lab.internet.spawn(["dnsmasq", "-k", "-C", "/dev/null", "-R", "-h", "-p", "5300", "-a", place, "-z",
                                 "--address=/other.example/192.0.2.7", "--pid-file="], stderr=subprocess.DEVNULL)
    probe = ["dig", f"@{place}", "-p", "5300", "+short", "+tries=1", "+time=1", "x.other.example"]
    try:
        wait_until(lambda: lab.host.run(*probe, check=False, stdout=subprocess.PIPE).stdout == "192.0.2.7\n", "dnsmasq")
        assert lab.exec(probe, allow=[net("allowed.example", family, 5300)]).ok().out == "192.0.2.7\n"
    finally:
        server.kill()
        server.wait()


@needs("chronyd", "ntpdate")
def test_the_time_by_ntp(lab, family):
    place, folder = address("allowed.example", family), lab.folder / f"chrony-{family}"
    folder.mkdir(mode=0o700)
    (folder / "conf").write_text(f"local stratum 3\nallow\nbindaddress {place}\ncmdport 0\nbindcmdaddress /\n"
                                 f"pidfile {folder}/pid\nuser root\n")
    server = lab.internet.spawn(["chronyd", "-x", "-d", "-f", str(folder / "conf")], stderr=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL)
    probe = ["ntpdate", "-q", place]
    try:
        wait_until(lambda: lab.host.run(*probe, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0,
                   "chronyd", 20)
        run = lab.exec(probe, allow=[f"udp://{place}:123" if family == 4 else f"udp://[{place}]:123"]).ok()
        assert place in run.out and run.audit.allowed()[0]["destination.port"] == 123
    finally:
        server.kill()
        server.wait()


@needs("iperf3")
def test_a_stream_of_datagrams(lab):
    place = address("allowed.example")
    server = lab.internet.spawn(["iperf3", "-s", "-1", "-B", place], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: "5201" in lab.internet.output("ss", "-lntH"), "iperf3")
        run = lab.exec(["iperf3", "-u", "-b", "5M", "-l", "1200", "-t", "1", "-c", place, "-J"], allow=[f"{place}:5201", f"udp://{place}:5201"]).ok()
        total = json.loads(run.out)["end"]["sum"]
        assert total["packets"] > 300 and total["lost_packets"] < total["packets"] / 2  # on a busy machine some are
    finally:
        server.kill()
        server.wait()


@needs("socat")
def test_socat(lab, echo, family):
    target = f"UDP{family}:{address(ECHO, 4)}:{PORT}" if family == 4 else f"UDP6:[{address(ECHO, 6)}]:{PORT}"
    run = lab.exec(["sh", "-c", f"printf hello | socat -t 2 - {target}"], allow=[net(ECHO, family)]).ok()
    assert run.out == "hello"


# --- containers -----------------------------------------------------------------------------------------------------

POLICY = f"""
policies:
  agents: {{allow: [allowed.example, "udp://{ECHO}:{PORT}", "{net("allowed.example", 4)}", "{net("allowed.example", 6)}"]}}
  plain: {{allow: [allowed.example]}}
"""


@pytest.fixture
def gateway(make_gateway):
    return make_gateway(POLICY)


@pytest.mark.smoke
def test_an_enrolled_container(gateway, by_name, family):
    box = gateway.container("--policy", "agents")
    assert box.do(*by_name(ECHO, family, "hello")).stdout == f"'hello' from {address(ECHO, family)} {PORT}\n"
    gateway.await_event(lambda events: events.allowed(ECHO))
    assert gateway.audit(complete=False).allowed(ECHO)[0]["container.id"] == box.id
    assert gateway.ask("verify", box.id).returncode == 0


def test_containers_have_their_own_policies(gateway, ask):
    place = address("allowed.example")
    one, two = gateway.container("--policy", "agents"), gateway.container("--policy", "plain")
    assert "hello" in one.do(*ask(place, PORT, "hello")).stdout
    assert "hello" not in two.do(*ask("--wait", "1", place, PORT, "hello")).stdout


def test_a_reload_opens_udp_and_closes_it(gateway, tool, echo):
    """Sockets for it come with the first rule; what is up is cut when the rule goes."""
    box = gateway.container("--policy", "plain")
    place, before = address("allowed.example"), box.sockets()
    client = box.start("python3", "-c", f"""
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); client.settimeout(5)
for line in sys.stdin:
    answer = None
    for attempt in range(2):  # the first may be told of the error of the one before
        try:
            client.connect(("{place}", {PORT})); client.send(line.encode()); answer = client.recv(100).decode().strip(); break
        except OSError as problem:
            answer = type(problem).__name__
    print(answer, flush=True)
""")

    def say(text):
        client.stdin.write(text + "\n")
        client.stdin.flush()
        return client.stdout.readline().strip()
    refused = ("PermissionError", "OSError")  # EPERM of sending, or the ICMP error
    assert say("one") in refused
    gateway.write_policy(POLICY.replace("plain: {allow: [", f"plain: {{allow: [\"udp://{place}:{PORT}\", "))
    gateway.told("reload")
    assert box.sockets() > before and gateway.ask("verify", box.id).returncode == 0
    assert say("two") == "two" and say("three") == "three"
    assert "allowed.example" in box.curl("https://allowed.example/").stdout
    gateway.write_policy(POLICY)
    gateway.told("reload")
    gateway.await_event(lambda events: events.where(event_action="flow-ended", **{"sallyport_close_reason": "policy_changed"}))
    assert say("four") in refused
    client.kill()
    client.wait()


def test_a_reload_that_names_another_destination_cuts_the_old_one(gateway, ask):
    box = gateway.container("--policy", "agents")
    place = address("allowed.example")
    assert "hello" in box.do(*ask(place, PORT, "hello")).stdout
    gateway.write_policy(POLICY.replace(net("allowed.example", 4), net("wild.example", 4)))
    gateway.told("reload")
    gateway.await_event(lambda events: events.where(event_action="flow-ended", **{"sallyport_close_reason": "policy_changed"}))
    assert "hello" not in box.do(*ask("--wait", "1", place, PORT, "hello")).stdout
    assert "hello" in box.do(*ask(address("wild.example"), PORT, "hello")).stdout


def test_what_is_idle_ends(make_gateway, ask):
    """And its descriptor is given back."""
    gateway = make_gateway(POLICY)
    gateway.config.write_text(gateway.config.read_text().replace("gateway: {", "gateway: {limits: {udp_idle_timeout: 1s}, "))
    gateway.told("reload")
    box = gateway.container("--policy", "agents")
    descriptors = lambda: len(os.listdir(f"/proc/{gateway.worker()}/fd"))
    before = descriptors()
    assert "hello" in box.do(*ask(address("allowed.example"), PORT, "hello")).stdout
    assert descriptors() == before + 1
    gateway.await_event(lambda events: events.where(event_action="flow-ended", **{"sallyport_close_reason": "idle_timeout"}))
    assert descriptors() == before


def test_a_new_worker_takes_the_datagrams_over(gateway, tool, echo):
    box = gateway.container("--policy", "agents")
    place = address("allowed.example")
    client = box.start("python3", "-c", f"""
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); client.settimeout(1); client.connect(("{place}", {PORT}))
for line in sys.stdin:
    for attempt in range(10):
        try:
            client.send(line.encode()); print(client.recv(100).decode().strip(), flush=True); break
        except OSError: pass
""")

    def say(text):
        client.stdin.write(text + "\n")
        client.stdin.flush()
        return client.stdout.readline().strip()
    assert say("one") == "one"
    gateway.await_new_worker(gateway.kill_worker())
    assert say("two") == "two"
    client.kill()
    client.wait()


def test_a_new_worker_finds_the_name_again(gateway, ask, by_name):
    """Its memory of DNS is empty, but the client goes on with the address that it has."""
    box = gateway.container("--policy", "agents")
    assert "hello" in box.do(*by_name(ECHO, 4, "hello")).stdout
    gateway.await_new_worker(gateway.kill_worker())
    assert box.do(*ask(address(ECHO), PORT, "hello")).stdout == f"'hello' from {address(ECHO)} {PORT}\n"


def test_a_new_monitor_captures_it_again(gateway, ask):
    box = gateway.container("--policy", "agents")
    place = address("allowed.example")
    assert "hello" in box.do(*ask(place, PORT, "hello")).stdout
    gateway.kill()
    assert "hello" not in box.do(*ask("--wait", "0.3", place, PORT, "hello")).stdout
    gateway.start()
    assert "hello" in box.do(*ask(place, PORT, "hello")).stdout


def test_withdrawn_is_closed_and_clean(gateway, ask):
    box = gateway.container("--policy", "agents", enroll=False)
    routes = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
    before = box.output("sh", "-c", routes)
    gateway.told("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
    assert "hello" in box.do(*ask(address("allowed.example"), PORT, "hello")).stdout
    gateway.told("withdraw", box.id)
    assert "hello" not in box.do(*ask("--wait", "0.3", address("allowed.example"), PORT, "hello")).stdout
    assert "9440" not in before and "9440" not in box.output("sh", "-c", routes)


def test_root_inside_gains_nothing(gateway, tool, echo):
    """Marks, rules, routes, raw packets, a socket of his own in place of ours: nothing leaves but what is allowed."""
    box = gateway.container("--policy", "agents")
    uplink = gateway.lab.capture()
    mark = 0x53414C4C
    story = f"""
import os, socket, struct, time
for mark in (0, {mark}):
    for kind, port in ((socket.SOCK_DGRAM, {PORT}), (socket.SOCK_DGRAM, 9), (socket.SOCK_STREAM, 9)):
        s = socket.socket(socket.AF_INET, kind); s.setsockopt(socket.SOL_SOCKET, 36, mark); s.settimeout(0.2)
        try: s.connect(("198.18.2.1", port)); s.send(b"must not leave")
        except OSError: pass
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source in ("10.0.2.100", "198.19.0.2", "198.18.1.1"):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton("198.18.2.1"))
    raw.sendto(head + struct.pack("!HHHH", {PORT}, {PORT}, 22, 0) + b"must not leave", ("198.18.2.1", 0))
"""
    box.do("python3", "-c", story)
    box.run("sh", "-c", f"ip rule del fwmark {mark} || true; ip rule add fwmark {mark} lookup main; ip route flush table 9440")
    box.do("python3", "-c", story)
    box.run("nft", "flush", "ruleset")
    box.do("python3", "-c", story)
    assert not uplink.carrying("must not leave")
    assert not uplink.towards("198.18.2.1")
