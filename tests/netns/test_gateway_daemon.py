"""`sallyport gateway`: start, reload, signals, death of worker and monitor, end."""
import json
import os
import signal
import socket
import stat
import subprocess

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import NAME_SERVER, ORDINARY_USER, wait_until
from origins import address

# --- start ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, hint", [
    (["--drain", "x"], "seconds"), (["--drain", "-1"], "seconds"), (["--drain", "86401"], "seconds"),
    (["--frob"], "no option"), (["more"], "no arguments"), (["-c"], "needs a value"), (["--state", ""], "needs a value"),
    (["--state", "/a", "--state", "/b"], "twice"), (["-c", "/nonexistent.yaml"], "/nonexistent.yaml"),
])
def test_wrong_options_are_one_line_and_start_nothing(lab, options, hint):
    done = lab.direct([lab.binary, "gateway", *options])
    assert done.status == 2 and hint in done.err and done.err.count("\n") == 1 and done.out == "", done


def test_an_ordinary_user_is_told_why_not(lab):
    done = lab.direct(["setpriv", "--reuid", str(ORDINARY_USER), "--clear-groups", lab.binary, "gateway", "-c", "/dev/null"])
    assert done.status == 2 and "root" in done.err and done.err.count("\n") == 1, done


def test_a_policy_with_errors_starts_nothing(make_gateway):
    gateway = make_gateway("policies: {a: {allow: [*.example.com]}}\n", start=False)
    gateway.start(wait=False)
    assert gateway.process.wait(10) == 2
    assert "policy.yaml:4:" in gateway.log() and not gateway.control.exists() and not gateway.state.exists()


def spoil_symlink(gateway):
    (gateway.folder / "elsewhere").mkdir()
    gateway.state.symlink_to("elsewhere")


def spoil_writable(gateway):
    gateway.state.mkdir()
    gateway.state.chmod(0o777)


def spoil_owner(gateway):
    gateway.state.mkdir(mode=0o700)
    os.chown(gateway.state, ORDINARY_USER, ORDINARY_USER)


def spoil_control(gateway):
    gateway.control.write_text("somebody's file")


def spoil_audit(gateway):
    gateway.audit_path.mkdir()


@pytest.mark.parametrize("spoil, hint", [(spoil_symlink, "symbolic link"), (spoil_writable, "can be written by others"),
                                         (spoil_owner, "belongs to uid"), (spoil_control, "is no socket"),
                                         (spoil_audit, "audit file")])
def test_folders_and_files_that_cannot_be_trusted_are_refused(make_gateway, spoil, hint):
    gateway = make_gateway(start=False)
    spoil(gateway)
    gateway.start(wait=False)
    assert gateway.process.wait(10) == 1
    assert hint in gateway.log() and gateway.log().count("\n") == 1, gateway.log()


def test_one_gateway_a_state_folder_and_a_socket(gateway):
    for options in (["--control", gateway.folder / "other.sock", "--state", gateway.state],
                    ["--control", gateway.control, "--state", gateway.folder / "other"]):
        second = gateway.lab.direct([gateway.lab.binary, "gateway", "-c", gateway.config, *options])
        assert second.status == 1 and "another gateway" in second.err, second
    assert gateway.status()["ready"]


def test_a_stale_socket_is_replaced(make_gateway):
    gateway = make_gateway(start=False)
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(gateway.control))
    left.close()
    gateway.start()
    assert gateway.status()["ready"]


# --- the control socket --------------------------------------------------------------------------------------------

def test_the_socket_is_for_root_alone(gateway):
    mode = gateway.control.stat()
    assert stat.S_IMODE(mode.st_mode) == 0o600 and mode.st_uid == 0
    gateway.control.chmod(0o666)  # even then
    done = subprocess.run(["setpriv", "--reuid", str(ORDINARY_USER), "--clear-groups", str(gateway.lab.binary), "ps",
                           "--control", str(gateway.control)], capture_output=True, text=True)
    assert done.returncode == 2 and "only root" in done.stderr


def talk(gateway, data):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(10)
    client.connect(str(gateway.control))
    client.send(data)
    text = b""
    while piece := client.recv(1 << 16):
        text += piece
    return json.loads(text)


@pytest.mark.parametrize("request_text, hint", [
    (b"x", "JSON"), (b"[]", "do"), (b'{"do": "dance"}', "do"), (b'{"do": "list", "more": 1}', ""), (b'{"do": 1}', "do"),
    (b'{"do": "enroll"}', "id"), (b'{"do": "enroll", "id": "../x"}', "letters"), (b'{"do": "enroll", "id": "a"}', "descriptor"),
    (b'{"do": "enroll", "id": "a", "name": "a\\nb"}', "control characters"), (b'{"do": "enroll", "id": 7}', ""),
    (b'{"do": "enroll", "id": "a", "id": "b"}', "duplicate"), (b'{"do": "withdraw"}', "id"),
    (b'{"do": "withdraw", "id": "' + b"a" * 200 + b'"}', "letters"), (b'{"do": "verify", "id": "a", "x": 1}', ""),
    (b"[" * 60000, ""), (b"\xff\xfe", ""), (b'{"do": "enroll", "id": "a", "policy": "' + b"p" * 300 + b'"}', "127"),
])
def test_malformed_requests_are_answered_and_change_nothing(gateway, request_text, hint):
    answer = talk(gateway, request_text)
    assert answer["ok"] is False and answer["code"] == "invalid" and hint in answer["error"], answer
    assert gateway.told("ps") == []


def test_descriptors_that_are_no_namespace_are_refused(gateway):
    for descriptors in ([0], [0, 0], [0, 0, 0]):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(gateway.control))
        socket.send_fds(client, [b'{"do": "enroll", "id": "a"}'], descriptors)
        answer = json.loads(client.recv(1 << 16))
        assert answer["code"] == "invalid", answer


def test_silent_and_vanishing_clients_hold_nothing_up(gateway):
    silent = []
    for _ in range(50):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(gateway.control))
        silent.append(client)
    for client in silent[::2]:
        client.close()
    assert gateway.status()["ready"]


# --- reload --------------------------------------------------------------------------------------------------------

def hold_flow(container, name="allowed.example", port=443):
    """A TLS connection that is up and stays up until it is told otherwise; says what came of it."""
    story = f"""
import socket, ssl, sys
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
s = c.wrap_socket(socket.create_connection(("{name}", {port})), server_hostname="{name}")
def ask():
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n")
    return s.recv(65536).split(b"\\r\\n")[0].decode() or "closed"
print(ask(), flush=True)
for line in sys.stdin:
    try: print(ask(), flush=True)
    except OSError as problem: print(type(problem).__name__, flush=True)
"""
    process = container.start("python3", "-c", story)
    assert process.stdout.readline() == "HTTP/1.1 200 OK\n", process.stderr.read()
    return process


def ask_again(process):
    process.stdin.write("again\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.smoke
def test_a_reload_judges_new_and_live_flows(gateway):
    box = gateway.container("--policy", "agents")
    kept, cut = hold_flow(box, "allowed.example"), hold_flow(box, "sub.wild.example")
    assert box.curl("https://denied.example/").returncode != 0
    gateway.write_policy("policies: {agents: {allow: [allowed.example, denied.example]}}\n")
    before = gateway.status()
    assert gateway.told("reload")["policy_version"] != before["policy_version"]
    again = gateway.ask("reload")
    assert (again.stdout, again.stderr) == (f"policy {gateway.status()['policy_version']} is in force\n", "")
    assert gateway.status()["worker"] == before["worker"], "the worker that serves the flows is still the same"
    assert ask_again(kept) == "HTTP/1.1 200 OK"
    assert ask_again(cut) in ("ConnectionResetError", "SSLEOFError", "BrokenPipeError")
    assert box.curl("https://denied.example/").returncode == 0
    assert box.curl("https://sub.wild.example/").returncode != 0
    [ended] = gateway.audit(complete=False).ended("sub.wild.example")
    assert (ended["sallyport.close_reason"], ended["event.reason"]) == ("policy_changed", "policy_changed")
    kept.kill()
    cut.kill()


def test_a_reload_changes_the_captured_ports(gateway):
    box = gateway.container("--policy", "agents")
    port = [*gateway.lab.client, "connect", address("ssh.example"), "22"]
    assert box.curl("https://allowed.example/").returncode == 0
    assert "22" in box.ruleset()
    gateway.write_policy('policies: {agents: {allow: [allowed.example, "tcp://ssh.example:2222"]}}\n')
    gateway.told("reload")
    assert box.do(*port).stdout.startswith("ECONNREFUSED")
    assert "2222" in box.ruleset()
    assert gateway.ask("verify", box.id).returncode == 0


def test_a_broken_file_changes_nothing_and_says_why(gateway):
    box = gateway.container("--policy", "agents")
    version = gateway.status()["policy_version"]
    gateway.write_policy("policies: {agents: {allow: [bad name]}}\n")
    done = gateway.ask("reload")
    assert done.returncode == 1 and "policy.yaml:4:" in done.stderr
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: gateway.log().count("policy.yaml:4:") == 2, "the second complaint")
    assert "stays" in gateway.log()
    assert gateway.status()["policy_version"] == version
    assert box.curl("https://allowed.example/").returncode == 0
    gateway.config.unlink()
    assert gateway.ask("reload").returncode == 1
    assert box.curl("https://allowed.example/").returncode == 0


def test_sighup_reloads_and_tells_the_service_manager(gateway):
    box = gateway.container("--policy", "agents")
    gateway.write_policy("policies: {agents: {allow: [denied.example]}}\n")
    gateway.process.send_signal(signal.SIGHUP)
    assert any(line.startswith("MONOTONIC_USEC=") for line in gateway.await_notice("RELOADING=1"))
    gateway.await_notice("READY=1")
    assert box.curl("https://denied.example/").returncode == 0


def test_many_reloads_in_a_row(gateway):
    box = gateway.container("--policy", "agents")
    for i in range(30):
        gateway.write_policy(f"policies: {{agents: {{allow: [allowed.example, n{i}.example]}}}}\n")
        gateway.process.send_signal(signal.SIGHUP)
    gateway.write_policy("policies: {agents: {allow: [denied.example]}}\n")
    wait_until(lambda: gateway.ask("reload").returncode == 0, "the last reload")
    assert box.curl("https://denied.example/").returncode == 0
    assert box.curl("https://allowed.example/").returncode != 0


def test_a_policy_that_vanishes_denies_its_containers(gateway):
    box = gateway.container("--policy", "agents")
    gateway.write_policy("policies: {others: {allow: [allowed.example]}}\ndefault: others\n")
    gateway.told("reload")
    assert box.curl("https://allowed.example/").returncode != 0
    assert gateway.told("ps")[0]["policy"] == "deny"


def test_allow_files_come_along(gateway):
    names = gateway.folder / "names.txt"
    names.write_text("allowed.example\n")
    gateway.write_policy("policies: {agents: {allow_files: [names.txt]}}\n")
    gateway.told("reload")
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    names.write_text("denied.example\n")
    gateway.told("reload")
    assert box.curl("https://allowed.example/").returncode != 0
    assert box.curl("https://denied.example/").returncode == 0


def test_sigusr1_opens_the_audit_file_anew(gateway):
    box = gateway.container("--policy", "agents")
    box.curl("https://denied.example/")
    gateway.await_event(lambda events: events.dns_denied())  # what is still queued would go to the new file
    old = gateway.audit_path.rename(gateway.folder / "audit.old")
    gateway.process.send_signal(signal.SIGUSR1)
    wait_until(gateway.audit_path.exists, "the new audit file")
    gateway.told("ps")  # the worker was told before this
    box.curl("https://other.example/")
    gateway.await_event(lambda events: events.dns_denied())
    assert gateway.audit(complete=False).dns_denied() == {"other.example"}
    assert "denied.example" in old.read_text()


# --- death ---------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_a_killed_worker_is_replaced_within_a_second(gateway):
    box = gateway.container("--policy", "agents")
    flow = hold_flow(box)
    uplink = gateway.lab.capture()
    before = gateway.kill_worker()
    gateway.await_new_worker(before, seconds=1)
    assert ask_again(flow) in ("closed", "ConnectionResetError", "SSLEOFError", "BrokenPipeError")
    assert box.curl("https://allowed.example/").returncode == 0
    assert box.curl("https://denied.example/").returncode != 0
    assert not uplink.carrying("denied.example") and gateway.ask("verify", box.id).returncode == 0
    flow.kill()


def test_what_comes_while_there_is_no_worker_waits(gateway):
    box = gateway.container("--policy", "agents")
    for _ in range(5):
        before = gateway.kill_worker()
        assert box.curl("https://allowed.example/").returncode == 0
        gateway.await_new_worker(before, seconds=10)


def load(box):
    """Connections to allowed and denied places without a pause, until standard input ends; how many came through."""
    story = """
import select, socket, sys
through = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    for host, port in (("198.18.1.1", 80), ("198.18.2.1", 80), ("198.18.2.1", 8081), ("2001:db8:5a11::2:1", 443)):
        try:
            with socket.create_connection((host, port), timeout=0.5) as c:
                c.sendall(b"GET / HTTP/1.0\\r\\nHost: allowed.example\\r\\n\\r\\n")
                through += b"200 OK" in c.recv(4096)
        except OSError: pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        try: u.sendto(b"a datagram that must not leave", ("198.18.2.1", 443))
        except OSError: pass
print(through)
"""
    return [box.start("python3", "-c", story) for _ in range(4)]


@pytest.mark.parametrize("who", ["worker", "monitor", "both"])
def test_whoever_is_killed_under_load_nothing_escapes_and_service_returns(gateway, who):
    box = gateway.container("--policy", "agents")
    uplink = gateway.lab.capture()
    clients = load(box)
    gateway.await_event(lambda events: len(events.allowed()) > 10)
    for _ in range(3):
        if who == "worker":
            gateway.await_new_worker(gateway.kill_worker(), seconds=10)
            continue
        worker = gateway.worker()
        if who == "both":
            os.kill(gateway.process.pid, signal.SIGSTOP)  # so that it cannot start another one
            os.kill(worker, signal.SIGKILL)
        gateway.process.kill()
        gateway.process.wait()
        refused = box.do(*gateway.lab.client, "connect", address("allowed.example"), "443").stdout
        assert refused.startswith(("ECONNREFUSED", "connected")), refused  # at once; "connected" only to a worker not dead yet
        gateway.start()
    again = len(gateway.audit(complete=False).allowed())
    gateway.await_event(lambda events: len(events.allowed()) > again + 10, "service again")
    through = [int(client.communicate(timeout=30)[0]) for client in clients]
    assert sum(through) > 20
    assert box.curl("https://allowed.example/").returncode == 0
    assert gateway.ask("verify", box.id).returncode == 0
    seen = uplink.packets()
    # ICMP: the host's "port unreachable" for an answer that found no worker any more.
    ports = {(packet.protocol, packet.dport) for packet in seen if packet.source == "198.19.0.2"
             and (packet.protocol, packet.destination) != ("icmp", NAME_SERVER)}
    assert ports <= {("tcp", 80), ("tcp", 443), ("udp", 53)}, ports
    assert not [packet for packet in seen if packet.destination in (address("denied.example"), address("denied.example", 6))]


def test_restarts_leave_one_of_everything(gateway):
    box = gateway.container("--policy", "agents")
    sockets, rules = box.sockets(), box.ruleset().count("\n")
    for _ in range(3):
        gateway.kill()
        gateway.start()
    assert box.sockets() == sockets and box.ruleset().count("\n") == rules
    assert box.links() == {"lo", "eth0"} | ({"eth0-closed"} & box.links())


def test_after_a_restart_the_gone_are_forgotten_and_the_others_served(gateway):
    stays, ends = gateway.container("--policy", "agents"), gateway.container("--policy", "agents")
    gateway.kill()
    ends.close()
    (gateway.state / "torn.json").write_text('{"version": 1,')
    (gateway.state / "half.new").write_text("")
    gateway.start()
    assert [one["id"] for one in gateway.told("ps")] == [stays.id]
    assert [path.name for path in gateway.state.iterdir()] == [f"{stays.id}.json"]
    assert stays.curl("https://allowed.example/").returncode == 0


def test_a_process_number_used_again_is_not_taken_for_the_container(gateway):
    box = gateway.container("--policy", "agents")
    gateway.kill()
    record = gateway.state / f"{box.id}.json"
    state = json.loads(record.read_text())
    state["start_time"] += 1
    record.write_text(json.dumps(state))
    gateway.start()
    assert gateway.told("ps") == [] and not record.exists()


def test_a_namespace_of_the_past_is_not_taken_for_the_container(gateway):
    box = gateway.container("--policy", "agents")
    gateway.kill()
    record = gateway.state / f"{box.id}.json"
    state = json.loads(record.read_text())
    state["netns_inode"] += 1
    record.write_text(json.dumps(state))
    gateway.start()
    assert gateway.told("ps") == [] and not record.exists()


def test_a_container_that_opened_itself_meanwhile_is_not_served(gateway):
    """Root inside builds a link to somebody else while nobody looks: then it is told, and gets no service."""
    box, other = gateway.container("--policy", "agents"), gateway.container(enroll=False)
    gateway.kill()
    box.run("ip", "link", "add", "way-out", "type", "veth", "peer", "name", "way-in", "netns", other.pid)
    gateway.start()
    [one] = gateway.told("ps")
    assert one["state"] == "failed" and "way-out" in one["failure"], one
    assert gateway.ask("verify", box.id).returncode == 1
    assert box.curl("https://allowed.example/").returncode != 0
    assert gateway.ask("withdraw", box.id).returncode == 0 and gateway.told("ps") == []


# --- the end -------------------------------------------------------------------------------------------------------

def test_sigterm_drains(make_gateway):
    gateway = make_gateway(options=["--drain", "20"])
    box = gateway.container("--policy", "agents")
    flow = hold_flow(box)
    gateway.process.terminate()
    gateway.await_notice("STOPPING=1")
    assert ask_again(flow) == "HTTP/1.1 200 OK"
    assert box.do(*gateway.lab.client, "connect", address("allowed.example"), "443").stdout.startswith("ECONNREFUSED")
    assert gateway.process.poll() is None
    flow.stdin.close()
    assert flow.wait(10) == 0
    assert gateway.process.wait(5) == 0
    assert not gateway.control.exists() and (gateway.state / f"{box.id}.json").exists()
    gateway.audit()


def test_a_drain_has_an_end(make_gateway):
    gateway = make_gateway(options=["--drain", "1"])
    box = gateway.container("--policy", "agents")
    flow = hold_flow(box)
    assert gateway.stop(timeout=5) == 0
    [ended] = gateway.audit().ended("allowed.example")
    assert ended["sallyport.close_by"] == "gateway"
    flow.kill()


def test_a_second_sigterm_ends_it_at_once(make_gateway):
    gateway = make_gateway(options=["--drain", "60"])
    box = gateway.container("--policy", "agents")
    flow = hold_flow(box)
    gateway.process.terminate()
    gateway.await_notice("STOPPING=1")
    gateway.process.terminate()
    assert gateway.process.wait(3) == 0
    flow.kill()


def test_stopped_and_started_again_it_serves_the_same_containers(gateway):
    box = gateway.container("--policy", "agents")
    assert gateway.stop() == 0
    assert box.curl("https://allowed.example/").returncode != 0
    gateway.start()
    assert box.curl("https://allowed.example/").returncode == 0
