"""`sallyport enroll`, `withdraw`, `verify`, `ps`: containers without a link of their own."""
import os
import signal
import socket
import subprocess
import time

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import Namespace, wait_until
from origins import address


def enroll(gateway, container, *options, id="box"):
    return gateway.ask("enroll", "--pid", container.pid, "--id", id, *options)


@pytest.fixture
def box(gateway):
    return gateway.container(enroll=False)


# --- what a container gets -----------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_an_enrolled_container_reaches_what_its_policy_allows(gateway, box, family):
    uplink = gateway.lab.capture()
    assert "agents" in enroll(gateway, box, "--policy", "agents", "--name", "ci-7", "--image", "registry.example/ci:1").stdout
    allowed = box.curl("https://allowed.example/", f"-{family}")
    assert allowed.stdout.startswith(f"allowed.example at {address('allowed.example', family)}"), allowed
    denied = box.curl("https://denied.example/", f"-{family}", "--resolve",
                      f"denied.example:443:{address('denied.example', family)}")
    assert denied.returncode == 35 and not uplink.towards(address("denied.example", family))
    gateway.await_event(lambda events: events.denied("denied.example"))
    [event] = gateway.audit(complete=False).denied("denied.example")
    assert (event["container.id"], event["container.name"], event["container.image.name"], event["rule.ruleset"]) == (
        "box", "ci-7", "registry.example/ci:1", "agents")


def test_before_it_is_enrolled_there_is_nothing(gateway, box):
    assert box.curl("https://allowed.example/").returncode != 0
    assert box.links() == {"lo"}


def test_any_name_server_is_ours(gateway, box):
    """The container's resolv.conf is not ours: whatever it asks, we answer."""
    enroll(gateway, box, "--policy", "agents")
    for server in ("192.0.2.53", "8.8.8.8", "2001:db8::53"):
        assert box.do("dig", "+short", f"@{server}", "allowed.example", "A").stdout.strip() == address("allowed.example")
        assert "NXDOMAIN" in box.do("dig", f"@{server}", "denied.example", "A").stdout


def test_containers_are_told_apart(gateway):
    one, two = gateway.container("--policy", "agents", "--name", "one"), gateway.container("--policy", "nothing")
    assert one.curl("https://allowed.example/").returncode == 0
    assert two.curl("https://allowed.example/").returncode != 0
    gateway.await_event(lambda events: events.dns_denied())
    assert {event["container.id"] for event in gateway.audit(complete=False).allowed("allowed.example")} == {one.id}


@pytest.mark.parametrize("name, policy", [("ci-12", "agents"), ("web-1", "deny"), (None, "deny")])
def test_without_a_policy_the_assign_rules_decide(gateway, box, name, policy):
    told = enroll(gateway, box, *(["--name", name] if name else [])).stdout
    assert told == f"box is enrolled, with policy {policy}\n"
    assert (box.curl("https://allowed.example/").returncode == 0) == (policy == "agents")


def test_root_inside_cannot_open_it(gateway, box):
    enroll(gateway, box, "--policy", "agents")
    uplink = gateway.lab.capture()
    box.run("nft", "flush", "ruleset")
    box.run("ip", "route", "replace", "198.18.2.0/24", "dev", "eth0")
    box.run("sh", "-c", "ip link add dummy9 type dummy || ip link add v1 type veth peer name v2; ip link set lo down; "
            "ip link set lo up; ip addr add 198.19.0.2/30 dev eth0", stderr=subprocess.DEVNULL, check=False)
    story = """
import socket
for mark in (0, 1, 0x53):
    for make in (lambda: socket.socket(), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)):
        s = make(); s.setsockopt(socket.SOL_SOCKET, 36, mark); s.settimeout(0.3)
        try: s.connect(("198.18.2.1", 443)); s.send(b"raw bytes that must not leave")
        except OSError: pass
"""
    box.do("python3", "-c", story)
    box.do(*gateway.lab.client, "udp", "198.18.2.1", "443")
    assert uplink.packets() == []
    verified = gateway.ask("verify", "box")
    assert verified.returncode == 1 and "ruleset is gone" in verified.stderr


# --- verify, ps ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage, hint", [
    ("nft flush chain inet sallyport output", "changed"),
    ("nft add rule inet sallyport forward accept", "changed"),
    ("nft add element inet sallyport ports { 8080 }", "changed"),
    ("nft delete table inet sallyport", "gone"),
    ("ip rule del ipproto tcp", "routing rule that captures TCP over IPv4 is gone"),
    ("ip -6 rule del ipproto tcp", "routing rule that captures TCP over IPv6 is gone"),
    ("ip rule del ipproto udp dport 53", "routing rule that captures DNS over IPv4 is gone"),
    ("ip -6 rule del ipproto udp dport 53", "routing rule that captures DNS over IPv6 is gone"),
])
def test_verify_sees_what_was_changed(gateway, damage, hint):
    box = gateway.container("--policy", "agents")
    assert gateway.ask("verify", box.id).returncode == 0
    box.curl("https://allowed.example/")  # counters do not count
    assert gateway.ask("verify", box.id).returncode == 0
    box.run(*damage.split())
    done = gateway.ask("verify", box.id)
    assert done.returncode == 1 and hint in done.stderr and done.stdout == ""


def test_verify_sees_a_link_that_leads_out(gateway):
    box, other = gateway.container("--policy", "agents"), gateway.container(enroll=False)
    box.run("ip", "link", "add", "way-out", "type", "veth", "peer", "name", "way-in", "netns", other.pid)
    done = gateway.ask("verify", box.id)
    assert done.returncode == 1 and "way-out" in done.stderr


def test_verify_of_nobody(gateway):
    done = gateway.ask("verify", "nobody")
    assert done.returncode == 1 and done.stderr == "sallyport verify: nothing is enrolled as nobody\n"


def test_ps_lists_them(gateway):
    assert gateway.told("ps") == []
    box = gateway.container("--policy", "agents", "--name", "naïve ☃", "--image", "i")
    [one] = gateway.told("ps")
    one.pop("worker", None)  # where there are several
    assert one == {"id": box.id, "name": "naïve ☃", "image": "i", "policy": "agents", "capture": "sealed", "state": "served",
                   "pid": box.pid, "netns": box.inode(), "since": one["since"]}
    assert abs(one["since"] - time.time()) < 60
    table = gateway.ask("ps").stdout.splitlines()
    assert table[0].split() == ["ID", "NAME", "POLICY", "CAPTURE", "STATE", "PID"] and str(box.pid) in table[1]


# --- refusals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, hint", [
    ([], "--pid N or --netns PATH"), (["--pid", "1", "--netns", "/x", "--id", "a"], "--pid N or --netns PATH"),
    (["--pid", "x", "--id", "a"], "number of a process"), (["--pid", "0", "--id", "a"], "number of a process"),
    (["--pid", "-1", "--id", "a"], "number of a process"), (["--pid", "99999999999", "--id", "a"], "number of a process"),
    (["--netns", "relative", "--id", "a"], "absolute"), (["--pid", "1"], "--id is missing"), (["--pid", "1", "--id", "a/b"], "letters"),
    (["--pid", "1", "--id", ".a"], "letters"), (["--pid", "1", "--id", "a" * 128], "letters"), (["--pid", "1", "--id", ""], "value"),
    (["--pid", "1", "--id", "a", "--id", "b"], "twice"), (["--pid", "1", "--id", "a", "extra"], "too many"),
    (["--pid", "999999999", "--id", "a"], "No such process"), (["--netns", "/nonexistent", "--id", "a"], "No such file"),
    (["--netns", "/etc/passwd", "--id", "a"], "no network namespace"), (["--frob"], "no option"), (["--policy"], "value"),
    (["--pid", "1", "--id", "a", "--name", "x" * 128], "127"), (["--pid", "1", "--id", "a", "--name", "a\nb"], "control"),
])
def test_wrong_use_is_one_line_and_status_2(gateway, options, hint):
    if any("x" * 128 in option or "\n" in option for option in options):  # found out by the gateway: needs a real process
        options = ["--pid", str(gateway.container(enroll=False).pid), *options[2:]]
    done = gateway.ask("enroll", *options)
    assert done.returncode == 2 and hint in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done
    assert gateway.told("ps") == []


@pytest.mark.parametrize("command", ["withdraw", "verify", "ps", "reload"])
def test_wrong_use_of_the_others(gateway, command):
    for options in (["--frob"], ["--control"], ["one", "two"]):
        done = gateway.ask(command, *options)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == "", done


def test_no_gateway(lab):
    for command in (["ps"], ["reload"], ["withdraw", "a"], ["enroll", "--pid", str(os.getpid()), "--id", "a"]):
        done = lab.direct([lab.binary, command[0], "--control", "/nonexistent/sock", *command[1:]])
        assert done.status == 2 and "no gateway answers at /nonexistent/sock" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("how", [[], ["--attached"]])
def test_the_host_is_not_captured(gateway, how):
    done = gateway.ask("enroll", "--pid", gateway.lab.host.pid, "--id", "host", *how)
    assert done.returncode == 1 and "network namespace of the host" in done.stderr, done
    assert "sallyport" not in gateway.lab.host.output("nft", "list", "ruleset")


def test_an_id_and_a_namespace_are_enrolled_once(gateway):
    box = gateway.container("--policy", "agents")
    other = gateway.container(enroll=False)
    assert "is enrolled already" in enroll(gateway, other, id=box.id).stderr
    assert f"enrolled already, as {box.id}" in enroll(gateway, box, id="again").stderr
    assert other.links() == {"lo"} and other.ruleset() == ""
    assert box.curl("https://allowed.example/").returncode == 0


def test_an_unknown_policy_is_refused(gateway, box):
    done = enroll(gateway, box, "--policy", "ghost")
    assert done.returncode == 1 and 'no policy "ghost"' in done.stderr
    assert box.links() == {"lo"} and box.ruleset() == "" and box.sockets() == 0


@pytest.mark.parametrize("name", ["eth0", "eth7"])
def test_a_namespace_with_a_link_is_not_sealed_and_left_as_it_was(gateway, box, name):
    """It may be anybody's, even a host's: not an address of it is touched, least of all a link of the name that ours would have."""
    other = gateway.container(enroll=False)
    box.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth8", "netns", other.pid)
    other.run("ip", "link", "set", "eth8", "up")
    for command in (f"addr add 198.18.250.1/24 dev {name}", f"link set {name} up", "route add default via 198.18.250.2"):
        box.run("ip", *command.split())
    wait_until(lambda: "LOWER_UP" in box.output("ip", "-br", "link", "show", name), "the carrier")
    before = box.network()
    done = enroll(gateway, box, "--policy", "agents")
    assert done.returncode == 1 and name in done.stderr, done
    assert box.network() == before and box.sockets() == 0
    assert gateway.told("ps") == [] and list(gateway.state.iterdir()) == []


def test_when_the_state_cannot_be_written_nothing_is_left(gateway, box):
    (gateway.state / "box.json").mkdir()  # rename() fails
    done = enroll(gateway, box, "--policy", "agents")
    assert done.returncode == 1 and "state file" in done.stderr, done
    assert box.links() == {"lo"} and box.ruleset() == "" and box.sockets() == 0
    assert gateway.told("ps") == [] and [path.name for path in gateway.state.iterdir()] == ["box.json"]


# --- the end of a container ----------------------------------------------------------------------------------------

def test_withdraw_takes_everything_back(gateway):
    box = gateway.container("--policy", "agents")
    assert box.sockets() > 0
    assert gateway.ask("withdraw", box.id).stdout == f"{box.id} is withdrawn\n"
    assert box.links() == {"lo"} and box.ruleset() == "" and box.sockets() == 0
    assert gateway.told("ps") == [] and list(gateway.state.iterdir()) == []
    again = gateway.ask("withdraw", box.id)
    assert again.returncode == 0 and again.stdout == f"nothing was enrolled as {box.id}\n"


def test_a_withdrawn_container_can_come_back(gateway):
    box = gateway.container("--policy", "nothing")
    gateway.told("withdraw", box.id)
    gateway.told("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0


def test_live_flows_end_with_the_enrolment(gateway):
    box = gateway.container("--policy", "agents")
    box.do("dig", "+short", "ssh.example")
    client = box.start("python3", "-c", "import socket; c = socket.create_connection(('198.18.4.1', 22)); "
                       "print(c.recv(9), flush=True); print(c.recv(9))")
    client.stdout.readline()  # it is up
    gateway.told("withdraw", box.id)
    client.communicate(timeout=10)
    gateway.audit()


def test_when_its_first_process_ends_it_is_withdrawn(gateway):
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    box.close()
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal", 2)
    assert list(gateway.state.iterdir()) == []


def test_the_same_id_in_a_new_namespace_right_after(gateway):
    old = gateway.container("--policy", "agents")
    for _ in range(10):
        new = gateway.container(enroll=False)
        old.close()
        gateway.told("enroll", "--pid", new.pid, "--id", "box-1", "--policy", "agents")
        assert new.curl("https://allowed.example/").returncode == 0
        assert [one["netns"] for one in gateway.told("ps")] == [new.inode()]
        old = new


def test_a_namespace_by_path(gateway):
    """As CNI hands it over: a bind mount, before there is a process."""
    path = gateway.folder / "netns"
    path.touch()
    box = gateway.container(enroll=False)
    subprocess.run(["mount", "--bind", f"/proc/{box.pid}/ns/net", str(path)], check=True)
    try:
        gateway.told("enroll", "--netns", path, "--id", "pod", "--policy", "agents")
        assert box.curl("https://allowed.example/").returncode == 0
        assert gateway.told("ps")[0]["path"] == str(path)
        gateway.kill()
        gateway.start()
        assert box.curl("https://allowed.example/").returncode == 0
        gateway.told("withdraw", "pod")
        assert box.ruleset() == ""
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def open_things(gateway):
    """Descriptors and children of monitor and worker, and state files."""
    monitor = gateway.process.pid
    count = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (monitor, gateway.worker())]
    children = len(open(f"/proc/{monitor}/task/{monitor}/children").read().split())
    return [*count, children, len(list(gateway.state.iterdir()))]


@pytest.mark.parametrize("rounds", [500])
def test_500_containers_come_and_go_and_leave_nothing(gateway, rounds):
    """A third is withdrawn, a third dies enrolled, a third dies while it is being enrolled."""
    gateway.container("--policy", "agents")
    before = open_things(gateway)
    for i in range(rounds):
        box = Namespace()
        if i % 3 == 2:
            asking = subprocess.Popen([str(gateway.lab.binary), "enroll", "--control", str(gateway.control), "--pid", str(box.pid),
                                       "--id", f"r{i}", "--policy", "agents"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            box.close()
            assert asking.wait(10) in (0, 1, 2)
            continue
        gateway.told("enroll", "--pid", box.pid, "--id", f"r{i}", "--policy", "agents")
        if i % 3 == 0:
            gateway.told("withdraw", f"r{i}")
        box.close()
    wait_until(lambda: len(gateway.told("ps")) == 1, "the last withdrawal")
    wait_until(lambda: open_things(gateway) == before, f"all is as before: {before}, now {open_things(gateway)}", 5)


def test_whoever_asks_and_leaves_gets_no_half_enrolment(gateway, box):
    """The engine kills the hook while it waits: the container will not start, so it must not stay enrolled."""
    os.kill(gateway.process.pid, signal.SIGSTOP)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(str(gateway.control))
    with open(f"/proc/{box.pid}/ns/net") as netns:
        pidfd = os.pidfd_open(box.pid)
        socket.send_fds(client, [b'{"do": "enroll", "id": "box", "policy": "agents"}'], [netns.fileno(), pidfd])
        os.close(pidfd)
    client.close()
    os.kill(gateway.process.pid, signal.SIGCONT)
    wait_until(lambda: gateway.told("ps") == [], "the rollback")
    assert box.links() == {"lo"} and box.ruleset() == "" and list(gateway.state.iterdir()) == []


def test_who_destroys_our_sockets_harms_only_itself(gateway):
    """root with CAP_NET_ADMIN inside, as `ss -K` does it: the gateway must neither spin nor say that all is well."""
    box, other = gateway.container(enroll=False), gateway.container("--policy", "agents")
    gateway.told("enroll", "--pid", box.pid, "--id", "box", "--policy", "agents", "--publish", "8080:80")
    uplink, worker = gateway.lab.capture(), gateway.worker_of("box")
    before = len(os.listdir(f"/proc/{worker}/fd"))
    box.run("ss", "-K", "-a", "-t", "-u", "sport", "gt", "0", capture_output=True, check=False)
    if box.output("ss", "-Htln"):
        pytest.skip("this kernel destroys no sockets (CONFIG_INET_DIAG_DESTROY)")
    wait_until(lambda: gateway.log().count("destroyed a listening socket") == 2, "the warnings")
    # What cannot be heard of any more is not held: there is nothing left to spin on. (UDP and NFLOG live on.)
    wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before - 2, "the closed listeners")
    host = address("denied.example")
    assert not box.do(*gateway.lab.client, "connect", host, "443").stdout.startswith("connected")
    assert not box.do(*gateway.lab.client, "connect", host, "8081").stdout.startswith("connected")
    assert not uplink.towards(host)
    done = gateway.ask("verify", "box")
    assert done.returncode == 1 and "destroyed our sockets" in done.stderr, done
    gateway.lab.host.run(*gateway.lab.client, "connect", "127.0.0.1", "8080", capture_output=True, check=False)
    gateway.await_event(lambda events: events.where(network_direction="ingress", event_action="flow-denied"))
    assert other.curl("https://allowed.example/").returncode == 0 and gateway.worker_of("box") == worker
    gateway.told("withdraw", "box")
    gateway.told("enroll", "--pid", box.pid, "--id", "box", "--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
