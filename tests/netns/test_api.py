"""The HTTP API of the monitor, spoken with curl and with sockets."""
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import ORDINARY_USER, wait_until
from metrics import parse, value
from origins import address
from test_gateway_upgrade import upgrade


def curl(gateway, method, path, body=None, *options):
    """(status, headers, body); JSON where it is JSON."""
    line = ["curl", "-sS", "-i", "--max-time", "20", "--unix-socket", str(gateway.api), f"http://localhost{path}"]
    line += ["--head"] if method == "HEAD" else ["-X", method]
    if body is not None:
        line += ["-d", body if isinstance(body, str) else json.dumps(body)]
    done = subprocess.run([*line, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + gateway.log()
    head, _, text = done.stdout.partition("\n\n")
    lines = head.splitlines()
    headers = {name.lower(): rest for name, rest in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(text) if headers["content-type"] == "application/json" and text else text


def good(gateway, method, path, body=None, status=200):
    got, _, answer = curl(gateway, method, path, body)
    assert got == status, answer
    return answer


def connect(gateway):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(str(gateway.api))
    return client


def until_closed(client):
    said = b""
    while piece := client.recv(1 << 16):
        said += piece
    return said


# --- what it does --------------------------------------------------------------------------------------------------

def test_a_containers_life(gateway):
    assert good(gateway, "GET", "/v1/containers")["containers"] == []
    box = gateway.container(enroll=False)
    answer = good(gateway, "POST", "/v1/containers", {"id": box.id, "pid": box.pid, "name": "web \"1\"", "policy": "agents"}, 201)
    assert answer["ok"] and answer["policy"] == "agents"
    assert box.curl("https://allowed.example/").returncode == 0
    one = good(gateway, "GET", f"/v1/containers/{box.id}")
    assert one["name"] == "web \"1\"" and one["pid"] == box.pid and one["state"] == "served" and one["netns"] == box.inode()
    assert good(gateway, "GET", "/v1/containers")["containers"] == [one] == gateway.told("ps")
    assert good(gateway, "POST", f"/v1/containers/{box.id}/verify") == {"ok": True}
    assert good(gateway, "GET", "/v1/status")["containers"] == 1
    box.run("nft", "flush", "ruleset")
    status, _, answer = curl(gateway, "POST", f"/v1/containers/{box.id}/verify")
    assert status == 500 and answer["code"] == "failed" and "rules" in answer["error"], answer
    assert good(gateway, "DELETE", f"/v1/containers/{box.id}")["withdrawn"] is True
    assert good(gateway, "DELETE", f"/v1/containers/{box.id}")["withdrawn"] is False
    assert curl(gateway, "GET", f"/v1/containers/{box.id}")[0] == 404


def test_by_path_of_the_namespace(gateway):
    box = gateway.container(enroll=False)
    path = gateway.folder / "netns"
    path.touch()
    subprocess.run(["mount", "--bind", f"/proc/{box.pid}/ns/net", path], check=True)
    try:
        good(gateway, "POST", "/v1/containers", {"id": "by-path", "netns": str(path), "policy": "agents"}, 201)
        assert good(gateway, "GET", "/v1/containers/by-path")["path"] == str(path)
        assert box.curl("https://allowed.example/").returncode == 0
        good(gateway, "DELETE", "/v1/containers/by-path")
    finally:
        subprocess.run(["umount", path], check=True)


def test_reload(gateway):
    before = good(gateway, "GET", "/v1/status")["policy_version"]
    gateway.write_policy("policies: {other: {}}\n")
    assert good(gateway, "POST", "/v1/reload")["policy_version"] != before
    gateway.write_policy("policies: {other: {allow: [*.example]}}\n")
    status, _, answer = curl(gateway, "POST", "/v1/reload")
    assert status == 500 and answer["error"].startswith(f"{gateway.config}:4:"), answer


def test_run_time_changes(gateway):
    box = gateway.container("--policy", "nothing")
    web = ["-sS", "--resolve", f"denied.example:443:{address('denied.example')}"]
    assert box.curl("https://denied.example/", *web).returncode != 0
    good(gateway, "POST", f"/v1/containers/{box.id}/rules", {"allow": ["denied.example"]})
    assert box.curl("https://denied.example/", *web).returncode == 0
    shown = good(gateway, "GET", f"/v1/containers/{box.id}/policy")
    assert "denied.example" in json.dumps(shown)
    good(gateway, "POST", f"/v1/containers/{box.id}/rules", {"allow": ["denied.example"], "remove": True})
    assert box.curl("https://denied.example/", *web).returncode != 0
    good(gateway, "PUT", f"/v1/containers/{box.id}/policy", {"policy": "agents"})
    assert good(gateway, "GET", f"/v1/containers/{box.id}")["policy"] == "agents"
    assert box.curl("https://allowed.example/").returncode == 0
    good(gateway, "POST", "/v1/policies/agents/rules", {"deny": ["allowed.example"]})
    assert box.curl("https://allowed.example/").returncode != 0
    assert "allowed.example" in json.dumps(good(gateway, "GET", "/v1/policies/agents"))
    good(gateway, "DELETE", "/v1/policies/agents/changes")
    assert box.curl("https://allowed.example/").returncode == 0
    good(gateway, "DELETE", f"/v1/containers/{box.id}/policy")
    assert good(gateway, "GET", f"/v1/containers/{box.id}")["policy"] == "nothing"
    status, _, answer = curl(gateway, "POST", f"/v1/containers/{box.id}/rules", {"allow": ["example.com:x"]})
    assert status == 400 and answer["code"] == "invalid" and "example.com:x" in answer["error"], answer


def test_metrics_and_health(gateway):
    gateway.container("--policy", "agents")
    status, headers, text = curl(gateway, "GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("application/openmetrics-text")
    assert value(parse(text), "containers") == 1
    assert good(gateway, "GET", "/healthz") == "ok\n" and good(gateway, "GET", "/readyz") == "ready\n"
    status, headers, text = curl(gateway, "HEAD", "/metrics")
    assert status == 200 and int(headers["content-length"]) > 1000 and text == ""
    status, headers, text = curl(gateway, "GET", "/metrics", None, "-H", "Accept: text/plain")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE sallyport_flows_total counter\n" in text and "# EOF" not in text


def test_not_ready_without_a_worker(gateway):
    os.kill(gateway.worker(), signal.SIGSTOP)
    before = gateway.kill_worker()
    gateway.await_new_worker(before, seconds=10)
    assert curl(gateway, "GET", "/readyz")[0] == 200


# --- errors --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, path, body, status, hint", [
    ("GET", "/", None, 404, "no such path"), ("GET", "/v1", None, 404, "no such path"), ("GET", "/v1/status/", None, 404, "no such"),
    ("GET", "/v2/status", None, 404, "no such path"), ("GET", "//v1/status", None, 404, "no such path"),
    ("POST", "/v1/status", None, 405, "POST"), ("DELETE", "/v1/containers", None, 405, "DELETE"), ("PATCH", "/v1/reload", None, 405, "PATCH"),
    ("GET", "/v1/status?pretty=1", None, 400, "?"), ("GET", "/v1/status", "{}", 400, "no body"),
    ("GET", "/v1/containers/nobody", None, 404, "nobody"), ("POST", "/v1/containers/nobody/verify", None, 404, "nobody"),
    ("DELETE", "/v1/containers/-x", None, 400, "letters"), ("GET", "/v1/containers/%zz", None, 404, "no such path"),
    ("POST", "/v1/containers", None, 400, "no JSON"), ("POST", "/v1/containers", "{", 400, "line 1, column 1"),
    ("POST", "/v1/containers", "[]", 400, "object"), ("POST", "/v1/containers", {"id": "a"}, 400, '"pid"'),
    ("POST", "/v1/containers", {"id": "a", "pid": 1, "netns": "/x"}, 400, '"pid"'),
    ("POST", "/v1/containers", {"id": "a", "pid": 0}, 400, "number"), ("POST", "/v1/containers", {"id": "a", "pid": "1"}, 400, "number"),
    ("POST", "/v1/containers", {"id": "a", "pid": 2**31}, 400, "number"), ("POST", "/v1/containers", {"id": "a", "pid": 2**31 - 1}, 400, "process"),
    ("POST", "/v1/containers", {"id": "a", "netns": "x"}, 400, "absolute"), ("POST", "/v1/containers", {"id": "a", "netns": "/nowhere"}, 400, "/nowhere"),
    ("POST", "/v1/containers", {"id": "a", "netns": "/dev/null"}, 400, "namespace"), ("POST", "/v1/containers", {"pid": 1}, 400, "id"),
    ("POST", "/v1/containers", {"id": "../a", "pid": 1}, 400, "letters"),
    ("POST", "/v1/containers", {"id": "a", "pid": 1, "do": "list"}, 400, 'unknown key "do"'),
    ("POST", "/v1/containers", {"id": "a", "pid": 1, "path": "/x"}, 400, 'unknown key "path"'),
    ("POST", "/v1/containers", '{"id": "a", "id": "b", "pid": 1}', 400, "duplicate"),
    ("PUT", "/v1/containers/a/policy", {}, 400, "policy"), ("PUT", "/v1/containers/a/policy", {"policy": "agents"}, 404, "a"),
    ("POST", "/v1/containers/a/rules", {}, 400, "allow"), ("POST", "/v1/containers/a/rules", {"allow": [], "deny": []}, 400, "one list"),
    ("POST", "/v1/containers/a/rules", {"allow": "x"}, 400, "list"), ("GET", "/v1/policies/none", None, 404, "none"),
    ("POST", "/v1/policies/agents/rules", {"allow": ["example.com"], "remove": "yes"}, 400, "true or false"),
])
def test_errors_are_json_with_a_status_and_change_nothing(gateway, method, path, body, status, hint):
    before = gateway.status()
    got, headers, answer = curl(gateway, method, path, body)
    assert got == status and answer["ok"] is False and hint in answer["error"], (got, answer)
    assert answer["code"] in ("invalid", "unknown", "refused") and headers["content-type"] == "application/json"
    assert ("allow" in headers) == (status == 405)
    assert gateway.status() == before and gateway.told("ps") == []


def test_the_methods_of_a_path_are_told(gateway):
    for path, allow in (("/v1/status", "GET, HEAD"), ("/v1/containers", "GET, HEAD, POST"), ("/v1/containers/a", "GET, HEAD, DELETE"),
                        ("/v1/reload", "POST"), ("/v1/containers/a/policy", "GET, HEAD, PUT, DELETE")):
        status, headers, _ = curl(gateway, "OPTIONS", path)
        assert status == 405 and headers["allow"] == allow


def test_the_hosts_own_namespace_is_refused(gateway):
    status, _, answer = curl(gateway, "POST", "/v1/containers", {"id": "a", "pid": gateway.process.pid})
    assert status == 403 and answer["code"] == "refused" and "host" in answer["error"], answer


def test_what_exists_conflicts(gateway):
    box = gateway.container("--policy", "agents")
    status, _, answer = curl(gateway, "POST", "/v1/containers", {"id": box.id, "pid": box.pid})
    assert status == 409 and answer["code"] == "exists"


@pytest.mark.parametrize("request_bytes, status", [
    (b"\r\n\r\n", 400), (b"GET /v1/status HTTP/1.1\n\n\r\n\r\n", 400), (b"GET /v1/status HTTP/2.0\r\n\r\n", 505),
    (b"POST /v1/containers HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    (b"POST /v1/containers HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413), (b"GET /" + b"a" * 9000, 431),
    (b"{\"do\": \"list\"}\r\n\r\n", 400),
])
def test_what_is_no_request_ends_the_connection(gateway, request_bytes, status):
    client = connect(gateway)
    client.sendall(request_bytes)
    said = until_closed(client)
    assert said.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in said, said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["ok"] is False


# --- the socket ----------------------------------------------------------------------------------------------------

def test_the_socket_is_for_root_alone(gateway):
    mode = gateway.api.stat()
    assert stat.S_IMODE(mode.st_mode) == 0o600 and mode.st_uid == 0
    gateway.api.chmod(0o666)  # even then
    done = subprocess.run(["setpriv", "--reuid", str(ORDINARY_USER), "--clear-groups", "curl", "-sS", "--unix-socket", str(gateway.api),
                           "http://localhost/v1/status"], capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""
    assert "API" in gateway.log()


def test_it_can_be_elsewhere_or_nowhere(make_gateway):
    gateway = make_gateway(start=False)
    gateway.options = ["--api", str(gateway.folder / "deep/er/http.sock")]
    gateway.start()
    gateway.api = gateway.folder / "deep/er/http.sock"
    assert good(gateway, "GET", "/healthz") == "ok\n"
    assert gateway.stop() == 0 and not gateway.api.exists()
    nowhere = make_gateway(options=["--api", "none"])
    assert not nowhere.api.exists() and nowhere.status()["ready"]


def test_one_gateway_a_socket(gateway):
    second = gateway.lab.direct([gateway.lab.binary, "gateway", "-c", gateway.config, "--control", gateway.folder / "other.sock",
                                 "--state", gateway.folder / "other", "--api", gateway.api])
    assert second.status == 1 and "another gateway" in second.err, second
    assert good(gateway, "GET", "/healthz") == "ok\n"


def test_connections_are_kept_and_requests_wait_their_turn(gateway):
    """Pipelined, cut anywhere, slow answers among fast ones: the answers come in order."""
    box = gateway.container(enroll=False)
    body = json.dumps({"id": box.id, "pid": box.pid, "policy": "agents"}).encode()
    story = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    story += b"POST /v1/containers HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    story += b"POST /v1/containers/%s/verify HTTP/1.1\r\nHost: x\r\n\r\n" % box.id.encode()
    story += b"GET /v1/containers/%s HTTP/1.1\r\nHost: x\r\n\r\n" % box.id.encode()
    story += b"DELETE /v1/containers/%s HTTP/1.0\r\n\r\n" % box.id.encode()
    client = connect(gateway)
    for byte in story[:200]:
        client.sendall(bytes([byte]))
    client.sendall(story[200:])
    said = until_closed(client)
    assert re.findall(rb"HTTP/1\.1 (\d+)", said) == [b"200", b"201", b"200", b"200", b"200"], said
    assert said.endswith(b'"withdrawn": true,\n  "ok": true\n}\n')


def test_who_hangs_up_before_the_answer_has_not_enrolled(gateway):
    boxes = [gateway.container(enroll=False) for _ in range(8)]
    for box in boxes:
        body = json.dumps({"id": box.id, "pid": box.pid, "policy": "agents"}).encode()
        client = connect(gateway)
        client.sendall(b"POST /v1/containers HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        client.close()
    def settled():
        """Each is enrolled whole, when it was answered before anybody could know, or not at all."""
        return {one["state"] for one in gateway.told("ps")} <= {"served"}
    wait_until(settled, "all settled")
    enrolled = {one["id"] for one in gateway.told("ps")}
    for box in boxes:
        assert (box.curl("https://allowed.example/").returncode == 0) == (box.id in enrolled)


def test_silent_and_crowding_clients_hold_nothing_up(gateway):
    crowd = [connect(gateway) for _ in range(64)]
    crowd[0].sendall(b"POST /v1/containers HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
    late = connect(gateway)
    assert until_closed(late) == b""
    assert gateway.status()["ready"]
    for client in crowd:
        assert until_closed(client) == b""  # ten seconds each has
    assert good(gateway, "GET", "/healthz") == "ok\n"


def test_an_answer_nobody_takes_is_given_up(gateway):
    client = connect(gateway)
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
    assert good(gateway, "GET", "/healthz") == "ok\n"
    client.settimeout(30)
    received = 0
    wait_until(lambda: gateway.status()["ready"], "the monitor")
    client.close()
    assert received == 0 and good(gateway, "GET", "/healthz") == "ok\n"


def test_it_ends_while_a_request_waits(gateway):
    box = gateway.container(enroll=False)
    body = json.dumps({"id": box.id, "pid": box.pid}).encode()
    client = connect(gateway)
    client.sendall(b"POST /v1/containers HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert gateway.stop() == 0
    client.close()


def test_nobody_is_reset_while_the_gateway_changes_hands(gateway):
    """Who has connected is answered, by the one or the other: clients without a pause, over several upgrades."""
    failed, ended, done = [], threading.Event(), [0, 0]

    def ask(i):
        while not ended.is_set():
            client = connect(gateway)
            try:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if not until_closed(client).endswith(b"ok\n"):
                    failed.append("no answer")
            except OSError as problem:
                failed.append(repr(problem))
            client.close()
            done[i] += 1
    clients = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for client in clients:
        client.start()
    for _ in range(6):
        goal = [count + 20 for count in done]
        wait_until(lambda: failed or all(count >= least for count, least in zip(done, goal)), "answers", 30)
        upgrade(gateway)
    ended.set()
    for client in clients:
        client.join()
    assert not failed, failed[:3]
