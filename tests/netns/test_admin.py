"""The admin endpoint: metrics that agree with the audit log, health, and what it refuses."""
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess

import pytest

from gateway_fixtures import POLICY, gateway, make_gateway  # noqa: F401
from lab import ROOT, wait_until
from metrics import Endpoint, by, value
from origins import address

HOLD = "import socket, sys; s = socket.create_connection((sys.argv[1], 443)); sys.stdin.read()"  # a flow that says nothing
PLAIN = ", admin: {listen: 127.0.0.1:9464}"


@pytest.fixture(autouse=True)
def four_mebibytes(lab):
    file = lab.folder / "www/files/four"
    if not file.exists():
        file.write_bytes(os.urandom(4 << 20))


@pytest.fixture
def served(make_gateway):
    return make_gateway(settings=PLAIN)


@pytest.fixture
def endpoint(served):
    return Endpoint(served)


def connect(gateway, port=9464):
    return gateway.lab.host.call(lambda: socket.create_connection(("127.0.0.1", port), timeout=20))


def until_closed(client):
    said = b""
    while piece := client.recv(1 << 16):
        said += piece
    return said


# --- counters ------------------------------------------------------------------------------------------------------

def assert_agree(served, endpoint):
    """Every sum that both have is the same. Returns the number of decisions."""
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 0, "no flow is up any more")
    counted = endpoint.metrics()
    served.await_event(lambda events: len(events.all) == value(counted, "audit_events_total"), "everything in the file")
    events = served.audit()
    decisions = [event for event in events if event["event.action"] in (
        "flow-allowed", "flow-denied", "request-allowed", "request-denied", "dns-denied")]
    reasons = {}
    for event in decisions:
        reasons[event["event.reason"]] = reasons.get(event["event.reason"], 0) + 1
    assert by(counted, "decisions_total", "reason") == reasons
    protocols = {}
    for event in decisions:
        protocol = event.get("network.protocol", event["network.transport"])
        protocols[protocol] = protocols.get(protocol, 0) + 1
    assert by(counted, "decisions_total", "protocol") == protocols
    outcomes = {"allowed": 0, "denied": 0}
    for event in decisions:
        outcomes["allowed" if event["event.outcome"] == "success" else "denied"] += 1
    assert by(counted, "decisions_total", "decision") == outcomes
    ended = [event for event in events if event["event.action"] == "flow-ended"]
    assert value(counted, "transferred_bytes_total", direction="up") == sum(event.get("source.bytes", 0) for event in ended)
    assert value(counted, "transferred_bytes_total", direction="down") == sum(event.get("destination.bytes", 0) for event in ended)
    packets = [event for event in events if event["event.action"] == "packet-denied"]
    assert value(counted, "packets_denied_total") == len(packets) + sum(event.get("sallyport.left_out", 0) for event in packets)
    assert value(counted, "dns_queries_total", decision="denied") == len(events.where(event_action="dns-denied"))
    assert value(counted, "sniff_duration_seconds_count") == value(counted, "flows_total")
    assert value(counted, "setup_duration_seconds_count") == len(events.allowed())
    return len(decisions)


def test_counters_agree_with_the_audit_log(served, endpoint):
    """Flows, requests on kept-alive connections and DNS questions, allowed and denied: what is counted is what is recorded."""
    box = served.container("--policy", "agents")
    got = 0
    for path in ("/", "/index.html"):
        done = box.curl(f"https://allowed.example{path}", "--resolve", f"allowed.example:443:{address('allowed.example')}")
        got += len(done.stdout)
    box.curl("https://denied.example/", "--resolve", f"denied.example:443:{address('denied.example')}")
    box.curl("http://denied.example/")                                     # refused by DNS
    box.curl("http://allowed.example/", "--resolve", f"allowed.example:80:{address('allowed.example')}")
    host = f"Host: {'denied.example'}"
    box.curl("http://allowed.example/", "http://allowed.example/", "-H", host, "--resolve",
             f"allowed.example:80:{address('allowed.example')}")
    box.curl("http://allowed.example/", "--next", "-sS", "-H", host, "http://allowed.example/")
    box.do("sh", "-c", f"printf 'EHLO\\r\\n' | {' '.join(map(str, served.lab.client))} connect {address('allowed.example')} 443")
    box.do("sh", "-c", f"timeout 1 {' '.join(map(str, served.lab.client))} connect {address('allowed.example')} 8081")
    assert assert_agree(served, endpoint) > 6
    assert got > 0


def test_counters_agree_after_a_crowd_and_never_go_back(served, endpoint):
    """Hundreds of flows at once, of every kind, while somebody scrapes without a pause."""
    boxes = [served.container("--policy", "agents") for _ in range(2)]
    allowed, denied = address("allowed.example"), address("denied.example")
    story = f"""
        case $(($1 % 5)) in
        0) curl -s https://allowed.example/ ;;
        1) curl -s --resolve denied.example:443:{denied} https://denied.example/ ;;
        2) curl -s --resolve allowed.example:80:{allowed} http://allowed.example/ --next -s -H 'Host: denied.example' http://allowed.example/ ;;
        3) curl -s http://nobody.example/ ;;
        4) curl -s --max-time 5 http://{allowed}:8081/ ;;
        esac >/dev/null; :"""
    crowds = [box.start("sh", "-c", 'seq 1 150 | xargs -P 12 -n 1 sh -c "$0" sh', story) for box in boxes]
    before, scrapes = endpoint.metrics(), 0
    while any(crowd.poll() is None for crowd in crowds):
        now = endpoint.metrics()
        for key, number in before.items():
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert now[key] >= number, key
        before, scrapes = now, scrapes + 1
    assert [crowd.wait() for crowd in crowds] == [0, 0] and scrapes > 3
    assert assert_agree(served, endpoint) >= 240  # four in five of three hundred


def test_the_bytes_counted_are_the_bytes_that_came(served, endpoint):
    """Plain HTTP, so that the client knows every byte of it; counted while the flow is up, not only at its end."""
    box = served.container("--policy", "agents")
    done = box.curl("http://big.example/files/four", "-o", "/dev/null", "-w", "%{size_download} %{size_header} %{size_request}")
    assert done.returncode == 0, done
    body, header, request = map(int, done.stdout.split())
    assert body > 1 << 20
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 0, "the end of the flow")
    counted = endpoint.metrics()
    assert value(counted, "transferred_bytes_total", direction="down") == body + header
    assert value(counted, "transferred_bytes_total", direction="up") == request


def test_active_flows_and_containers_go_up_and_down(served, endpoint):
    box = served.container("--policy", "agents")
    assert value(endpoint.metrics(), "containers") == 1
    flow = box.start("curl", "-sS", "--limit-rate", "1000", "http://big.example/files/four")
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 1, "the flow")
    before = value(endpoint.metrics(), "transferred_bytes_total", direction="down")
    assert before > 0
    served.told("withdraw", box.id)
    now = endpoint.metrics()
    assert value(now, "flows_active") == 0 and value(now, "containers") == 0
    flow.kill()  # it still has what its socket held


def test_cache_hits_and_limits_are_counted(make_gateway):
    gateway = make_gateway("policies: {agents: {allow: [allowed.example], limits: {dns_queries_per_second: 5, flows_per_container: 1}}}\n",
                           settings=PLAIN)
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    # All by one program: on a busy machine nine of them would take longer than the limit minds.
    done = box.do("dig", "+tries=1", "+time=2", "@192.0.2.53", *["allowed.example", "A"] * 9)
    limited = done.stdout.count("REFUSED")
    counted = endpoint.metrics()
    assert limited > 0 and value(counted, "dns_queries_total", decision="limited") == limited
    assert value(counted, "limit_hits_total", limit="dns_queries") == limited
    answered = value(counted, "dns_queries_total", decision="allowed")
    assert answered + limited == 9 and value(counted, "dns_cache_hits_total") == answered - 1
    holder = box.start("python3", "-c", HOLD, address("allowed.example"))
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 1, "the first flow")
    box.do(*gateway.lab.client, "connect", address("allowed.example"), "443")
    assert value(endpoint.metrics(), "limit_hits_total", limit="container_flows") == 1
    holder.kill()


def test_origins_that_refuse_are_counted(make_gateway):
    gateway = make_gateway('policies: {agents: {allow: ["tcp://allowed.example:8081"]}}\n', settings=PLAIN)
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    box.curl("http://allowed.example:8081/")
    errors = by(endpoint.metrics(), "upstream_errors_total", "error")
    assert errors.keys() == {"refused"} and errors["refused"] >= 1, errors


def test_counters_outlive_the_worker_and_never_go_back(served, endpoint):
    box = served.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    held = box.start("curl", "-sS", "--limit-rate", "1000", "http://big.example/files/four")
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 1, "a flow that is up")
    before = endpoint.metrics()
    served.await_new_worker(served.kill_worker(), seconds=10)
    after = endpoint.metrics()
    for (name, labels), number in before.items():
        if name.endswith(("_total", "_count", "_bucket")):
            assert after[name, labels] >= number, name
    assert value(after, "worker_restarts_total") == value(after, "workers") and value(after, "flows_active") == 0
    assert value(after, "worker_ready") == 1
    held.kill()
    assert box.curl("https://allowed.example/").returncode == 0
    assert value(endpoint.metrics(), "decisions_total", reason="rule_allow") == value(before, "decisions_total", reason="rule_allow") + 1


def test_reloads_are_counted_and_the_last_ones_outcome_told(served, endpoint):
    before = endpoint.metrics()
    assert value(before, "policy_last_reload_successful") == 1
    served.told("reload")
    served.write_policy("policies: {agents: {allow: [*.example]}}\n")
    assert served.ask("reload").returncode == 1
    failed = endpoint.metrics()
    assert value(failed, "policy_reloads_total", result="success") == 1
    assert value(failed, "policy_reloads_total", result="failure") == 1
    assert value(failed, "policy_last_reload_successful") == 0
    served.write_policy(POLICY)
    served.told("reload")
    assert value(endpoint.metrics(), "policy_last_reload_successful") == 1
    stamp = value(endpoint.metrics(), "policy_last_reload_timestamp_seconds")
    assert stamp >= value(before, "policy_last_reload_timestamp_seconds")


def test_the_loops_lag_is_measured(served, endpoint):
    """Every turn counts: a request is at least one, and the longest is told."""
    before = endpoint.metrics()
    client = connect(served)
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    client.recv(1 << 16)
    assert value(before, "loop_lag_seconds_count") > 0
    after = endpoint.metrics()
    assert value(after, "loop_lag_seconds_count") > value(before, "loop_lag_seconds_count")
    assert value(after, "loop_lag_max_seconds") > 0
    client.close()


def test_no_label_is_a_containers_to_choose(served, endpoint):
    """Whatever names a container asks for, the text grows by nothing."""
    box = served.container("--policy", "agents")
    box.curl("https://denied.example/")
    series = set(endpoint.metrics())
    for i in range(20):
        box.curl(f"https://name-{i}.example/", "--resolve", f"name-{i}.example:443:{address('denied.example')}")
        box.curl(f"https://other-{i}.example/")
    new = set(endpoint.metrics()) - series
    assert len(new) <= 1 and "name-" not in str(new), new  # tls, denied, no_rule


# --- health --------------------------------------------------------------------------------------------------------

def test_health_and_readiness(served, endpoint):
    for path, text in (("/healthz", "ok\n"), ("/readyz", "ready\n")):
        done = endpoint.curl(path, "-i")
        assert done.stdout.startswith("HTTP/1.1 200 OK") and done.stdout.endswith(text), done
    assert endpoint.curl("/metrics", "-i").stdout.count(
        "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8") == 1
    done = endpoint.curl("/metrics", "--head")
    assert "200 OK" in done.stdout and re.search(r"Content-Length: [1-9]", done.stdout) and "# EOF" not in done.stdout


def test_not_ready_while_events_cannot_be_recorded(make_gateway):
    gateway = make_gateway(start=False, settings=PLAIN)
    gateway.audit_path = "/dev/full"
    gateway.start()
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    wait_until(lambda: endpoint.status("/readyz") == 503, "readiness withdrawn")  # that it was started is the first that cannot be recorded
    assert box.curl("https://allowed.example/").returncode != 0
    assert "audit" in endpoint.curl("/readyz").stdout and endpoint.status("/healthz") == 200
    counted = endpoint.metrics()
    assert value(counted, "audit_failing") == 1 and value(counted, "audit_queued_bytes") > 0


def test_not_ready_while_it_drains(make_gateway):
    gateway = make_gateway(options=["--drain", "20"], settings=PLAIN)
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    flow = box.start("curl", "-sS", "--limit-rate", "1000", "http://big.example/files/four")
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 1, "the flow")
    gateway.process.terminate()
    gateway.await_notice("STOPPING=1")
    wait_until(lambda: endpoint.status("/readyz") == 503, "readiness withdrawn")
    assert "about to end" in endpoint.curl("/readyz").stdout
    flow.kill()
    assert gateway.process.wait(20) == 0


# --- what it refuses -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("request_bytes, status", [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404), (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405), (b"DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"GET http://x/metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400), (b"GET /metrics HTTP/1.1\nHost: x\n\n\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400), (b"GET /metrics\r\n\r\n", 505), (b"\x16\x03\x01\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", 417),
    (b"GET /metrics HTTP/2.0\r\nHost: x\r\n\r\n", 505), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501), (b"GET /" + b"a" * 600 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 9000, 431), (b"GET /met\0rics HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 501),
])
def test_odd_requests_have_their_status_and_end_the_connection(served, request_bytes, status):
    client = connect(served)
    client.sendall(request_bytes)
    closes = status not in (404, 405)
    if not closes:
        client.shutdown(socket.SHUT_WR)
    said = until_closed(client)
    assert said.startswith(b"HTTP/1.1 %d " % status), said
    assert (b"Connection: close\r\n" in said) == closes


def test_connections_are_kept_and_requests_may_come_in_pieces_or_together(served):
    client = connect(served)
    for _ in range(3):
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes([byte]))
        assert client.recv(4096).endswith(b"ok\n")
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + b"GET /metrics HTTP/1.0\r\n\r\n")
    said = until_closed(client)
    assert said.count(b"\r\n\r\nok\n") == 50 and said.endswith(b"# EOF\n")


def test_silent_and_slow_connections_are_bounded(served, endpoint):
    """Sixty-four at a time; who says nothing, or not enough, is gone after ten seconds, and the gateway serves meanwhile."""
    box = served.container("--policy", "agents")
    crowd = [connect(served) for _ in range(64)]
    for i, client in enumerate(crowd):
        if i % 2:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    wait_until(lambda: endpoint.curl("/healthz").returncode != 0, "nobody else is answered")
    late = connect(served)
    assert until_closed(late) == b""
    assert box.curl("https://allowed.example/").returncode == 0
    for client in crowd:
        assert until_closed(client) == b""
    assert endpoint.status("/healthz") == 200


def test_a_reader_that_does_not_read_is_given_up(served, endpoint):
    def slow():
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", 9464))
        return client
    client = served.lab.host.call(slow)
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
    client.settimeout(20)
    assert endpoint.status("/healthz") == 200
    client.close()
    assert endpoint.status("/metrics") == 200


def test_containers_do_not_reach_it(make_gateway, lab):
    """A policy that allows everything does not lead to the gateway's own machine."""
    lab.host.run("ip", "addr", "replace", "11.22.33.44/32", "dev", "lo")
    gateway = make_gateway("policies: {all: {extends: unrestricted}}\n", settings=PLAIN.replace("127.0.0.1:9464", '"0.0.0.0:9464"'))
    box = gateway.container("--policy", "all")
    assert Endpoint(gateway, "11.22.33.44:9464").status("/healthz") == 200
    for target in ("127.0.0.1", "11.22.33.44"):
        assert box.curl(f"http://{target}:9464/metrics", "--noproxy", "*").returncode != 0
    gateway.await_event(lambda events: [event["event.reason"] for event in events.denied()] == ["destination_guarded"])
    lab.host.run("ip", "addr", "del", "11.22.33.44/32", "dev", "lo")


# --- where it listens ----------------------------------------------------------------------------------------------

def test_an_address_that_is_taken_starts_nothing(make_gateway, lab):
    taken = lab.host.call(lambda: socket.create_server(("127.0.0.1", 9464)))
    gateway = make_gateway(start=False, settings=PLAIN)
    gateway.start(wait=False)
    assert gateway.process.wait(10) == 1
    assert "gateway.admin: cannot listen on 127.0.0.1:9464: Address already in use" in gateway.log()
    taken.close()


def test_reload_moves_it_and_takes_it_away(served, endpoint):
    kept = connect(served)
    kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept.recv(4096).endswith(b"ok\n")
    taken = served.lab.host.call(lambda: socket.create_server(("127.0.0.1", 9466)))
    served.settings = PLAIN.replace("9464", "9466")
    served.write_policy(POLICY)
    refused = served.ask("reload")
    assert refused.returncode == 1 and "in use" in refused.stderr and endpoint.status("/healthz") == 200
    taken.close()
    served.told("reload")
    moved = Endpoint(served, "127.0.0.1:9466")
    wait_until(lambda: moved.curl("/healthz").returncode == 0, "the new address")
    wait_until(lambda: endpoint.curl("/healthz").returncode == 7, "the old one is refused")
    kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept.recv(4096).endswith(b"ok\n")  # whoever was there may stay
    served.settings = ""
    served.write_policy(POLICY)
    served.told("reload")
    wait_until(lambda: moved.curl("/healthz").returncode == 7, "no endpoint")


def test_ipv6(make_gateway):
    gateway = make_gateway(settings=', admin: {listen: "[::1]:9464"}')
    assert Endpoint(gateway, "[::1]:9464").status("/readyz") == 200


def test_a_new_worker_serves_it_at_once(served, endpoint):
    waiting = None
    os.kill(served.worker(), signal.SIGSTOP)
    waiting = connect(served)  # in the queue of a worker that dies: the next one finds it there
    waiting.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    served.await_new_worker(served.kill_worker(), seconds=10)
    assert until_closed(waiting).endswith(b"ok\n")


# --- TLS -----------------------------------------------------------------------------------------------------------

class Files:
    """Certificates of the lab's own authority (allowed.example), and of a stranger, beside the policy file."""

    def __init__(self, gateway):
        lab, folder = gateway.lab.folder, gateway.folder
        for name, source in (("cert.pem", "allowed.example.pem"), ("key.pem", "allowed.example.key"), ("ca.pem", "ca.pem"),
                             ("other-cert.pem", "denied.example.pem"), ("other-key.pem", "denied.example.key")):
            shutil.copy(lab / source, folder / name)
        self.folder, self.lab = folder, lab


TLS = ', admin: {listen: 127.0.0.1:9464, tls: {certificate: cert.pem, key: key.pem}}'
MUTUAL = TLS.replace("key: key.pem", "key: key.pem, client_ca: ca.pem")


@pytest.fixture
def make_tls(make_gateway):
    def make(settings=TLS):
        gateway = make_gateway(start=False, settings=settings)
        files = Files(gateway)
        return gateway.start(), files
    return make


def tls_endpoint(gateway, files, *options, name="allowed.example"):
    return Endpoint(gateway, f"{name}:9464", "https", ["--cacert", files.lab / "ca.pem", "--resolve", f"{name}:9464:127.0.0.1",
                                                        *options])


def test_tls(make_tls):
    gateway, files = make_tls()
    endpoint = tls_endpoint(gateway, files)
    assert value(endpoint.metrics(), "containers") == 0
    assert endpoint.status("/readyz") == 200 and endpoint.status("/", "--tls-max", "1.2") == 404
    done = endpoint.curl("/healthz", "-w", " %{ssl_verify_result} %{num_connects}", f"https://{endpoint.address}/readyz")
    assert done.stdout == "ready\n 0 1ok\n 0 0", done  # the connection is kept
    assert tls_endpoint(gateway, files, name="denied.example").curl("/healthz").returncode == 60  # curl minds the name
    assert Endpoint(gateway).curl("/healthz").returncode != 0
    client = connect(gateway)
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"sallyport" not in until_closed(client)
    assert "admin endpoint" in gateway.log()
    old = endpoint.host.run("openssl", "s_client", "-connect", "127.0.0.1:9464", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", check=False,
                            capture_output=True, stdin=subprocess.DEVNULL)
    assert "Cipher is (NONE)" in old.stdout or "no protocols available" in old.stderr, old


def test_clients_show_a_certificate_where_it_is_wanted(make_tls):
    gateway, files = make_tls(MUTUAL)
    assert tls_endpoint(gateway, files).curl("/metrics").returncode != 0
    lab = files.lab
    known = ["--cert", lab / "denied.example.pem", "--key", lab / "denied.example.key"]
    assert tls_endpoint(gateway, files, *known).status("/readyz") == 200
    for name in ("stranger.example", "expired.example", "self-signed.example"):
        wrong = ["--cert", lab / f"{name}.pem", "--key", lab / f"{name}.key"]
        assert tls_endpoint(gateway, files, *wrong).curl("/readyz").returncode != 0, name


def spoiled_hellos(gateway):
    """The beginnings of real handshakes, with bytes changed, left out, doubled; the same every time."""
    chance = random.Random(7)
    hellos = [path.read_bytes() for path in sorted((ROOT / "tests/data/hello").glob("*")) if path.is_file()]
    for i in range(400):
        data = bytearray(chance.choice(hellos))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(data) or 1)
            spoil = chance.randrange(3)
            if spoil == 0 and data:
                data[at] ^= 1 << chance.randrange(8)
            elif spoil == 1:
                del data[at:at + chance.randrange(1, 40)]
            else:
                data[at:at] = data[at:at + 20]
        yield bytes(data)


def test_hostile_bytes_hurt_nobody(make_tls):
    """Spoiled hellos, requests in the clear and noise at the TLS port, on connections that are dropped anyhow."""
    gateway, files = make_tls(MUTUAL)
    known = ["--cert", files.lab / "denied.example.pem", "--key", files.lab / "denied.example.key"]
    noise = [b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\x80\x2e\x01\x03\x01", b"\x15\x03\x03\x00\x02\x02\x28", b"\0" * 20000,
             b"\x16\x03\x03\xff\xff" + b"a" * 65535, b"\x17\x03\x03\x00\x05hello"]
    for i, data in enumerate([*spoiled_hellos(gateway), *noise]):
        client = connect(gateway)
        client.sendall(data)
        if i % 3 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        elif i % 3 == 1:
            client.shutdown(socket.SHUT_WR)
        client.close()
    counted = tls_endpoint(gateway, files, *known).metrics()
    assert value(counted, "worker_restarts_total") == 0 and value(counted, "worker_ready") == 1


def test_a_slow_handshake_is_given_up(make_tls):
    gateway, files = make_tls()
    half = connect(gateway)
    half.sendall(bytes.fromhex("16030102000100"))
    assert until_closed(half) == b""
    assert tls_endpoint(gateway, files).status("/healthz") == 200


def test_a_new_certificate_comes_by_a_reload(make_tls):
    gateway, files = make_tls()
    assert tls_endpoint(gateway, files).status("/healthz") == 200
    for name in ("cert", "key"):
        shutil.copy(files.folder / f"other-{name}.pem", files.folder / f"{name}.pem")
    gateway.told("reload")
    assert tls_endpoint(gateway, files, name="denied.example").status("/healthz") == 200
    gateway.await_new_worker(gateway.kill_worker(), seconds=10)
    assert tls_endpoint(gateway, files, name="denied.example").status("/healthz") == 200


@pytest.mark.parametrize("spoil, hint", [
    (lambda folder: shutil.copy(folder / "other-key.pem", folder / "key.pem"), "the key does not belong to the certificate"),
    (lambda folder: (folder / "key.pem").unlink(), "key.pem: cannot read it: No such file"),
    (lambda folder: (folder / "cert.pem").write_text("nothing"), "cert.pem holds no certificate"),
    (lambda folder: (folder / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nAA==\n"), "the key cannot be read"),
])
def test_what_cannot_be_used_is_refused_and_the_old_stays(make_tls, spoil, hint):
    gateway, files = make_tls()
    spoil(files.folder)
    refused = gateway.ask("reload")
    assert refused.returncode == 1 and hint in refused.stderr, refused
    checked = gateway.lab.direct([gateway.lab.binary, "policy", "check", gateway.config])
    assert checked.status == 2 and hint in checked.err and checked.err.startswith(f"{gateway.config}:2:"), checked
    assert tls_endpoint(gateway, files).status("/healthz") == 200
    assert value(tls_endpoint(gateway, files).metrics(), "policy_last_reload_successful") == 0
    gateway.kill()
    gateway.start(wait=False)
    assert gateway.process.wait(10) in (1, 2) and hint in gateway.log()


def test_the_key_is_told_nowhere(make_tls):
    gateway, files = make_tls()
    box = gateway.container("--policy", "agents")
    box.curl("https://denied.example/")
    secret = (files.folder / "key.pem").read_text().splitlines()[1]
    tls_endpoint(gateway, files).metrics()
    assert secret not in gateway.log() and secret not in gateway.audit_path.read_text()
    assert secret not in tls_endpoint(gateway, files).curl("/metrics").stdout
    version = gateway.status()["policy_version"]
    shutil.copy(files.folder / "other-key.pem", files.folder / "key.pem")
    shutil.copy(files.folder / "other-cert.pem", files.folder / "cert.pem")
    gateway.told("reload")
    assert gateway.status()["policy_version"] != version


def test_a_key_for_everybody_to_read_is_warned_of(make_gateway):
    gateway = make_gateway(start=False, settings=TLS)
    key = Files(gateway).folder / "key.pem"
    for mode, warned in ((0o644, True), (0o640, False)):
        key.chmod(mode)
        done = gateway.lab.direct([gateway.lab.binary, "policy", "check", gateway.config])
        assert done.status == 0 and ("read by everybody" in done.err) == warned, done


def test_in_the_clear_to_everybody_is_warned_of(make_gateway):
    gateway = make_gateway(start=False, settings=PLAIN.replace("127.0.0.1:9464", '"0.0.0.0:9464"'))
    done = gateway.lab.direct([gateway.lab.binary, "policy", "check", gateway.config])
    assert done.status == 0 and "in the clear" in done.err and done.err.startswith(f"{gateway.config}:2:"), done


# --- name servers and origins --------------------------------------------------------------------------------------

def test_name_servers_and_verifications_are_counted(make_gateway):
    policy = "policies: {agents: {verify_origin: always, allow: [allowed.example, expired.example, 'https://ssh.example:22']}}\n"
    gateway = make_gateway(start=False)
    gateway.settings = PLAIN + f", ca_file: {gateway.lab.folder}/ca.pem"
    gateway.write_policy(policy)
    gateway.start()
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    assert box.curl("https://expired.example/").returncode != 0
    assert box.curl("https://ssh.example:22/").returncode != 0
    counted = endpoint.metrics()
    assert by(counted, "origin_verifications_total", "result") == {"proven": 1, "refused": 1, "no_certificate": 1}
    assert value(counted, "dns_upstream_duration_seconds_count") >= 3 and value(counted, "dns_upstream_failures_total") == 0
    assert 0 < value(counted, "dns_upstream_duration_seconds_sum") < 60


def test_a_name_server_that_does_not_answer_is_counted(make_gateway, lab):
    gateway = make_gateway(start=False)
    gateway.config.write_text(f"version: 1\ngateway: {{resolvers: [198.18.66.9], limits: {{connect_timeout: 6s}}{PLAIN}}}\n"
                              "destinations: {allow: [198.18.0.0/15]}\npolicies: {agents: {allow: [allowed.example]}}\n")
    gateway.start()
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    box.do("dig", "+tries=1", "+time=10", "@192.0.2.53", "allowed.example")
    counted = endpoint.metrics()
    assert value(counted, "dns_upstream_failures_total") >= 1
    assert value(counted, "dns_upstream_duration_seconds_count") == 0
