"""The audit log. Audit.read checks every log of the suite: valid JSON, ASCII, no gap, a fixed reason, an end to each flow."""
import json
import os
import signal
import stat

from lab import wait_until
from origins import address
from test_web import ALLOWED, CURL, past_dns


def test_a_flow_in_full(lab, family):
    run = lab.exec([*CURL, f"-{family}", "https://allowed.example/"], **ALLOWED).ok()
    decision, end = run.audit.where(destination_domain="allowed.example")
    assert decision["event.action"] == "flow-allowed" and decision["event.type"] == ["connection", "allowed"]
    assert decision["event.kind"] == "event" and "network" in decision["event.category"]
    assert decision["network.transport"] == "tcp" and decision["network.protocol"] == "tls"
    assert decision["tls.client.server_name"] == "allowed.example"
    assert "h2" in decision["tls.next_protocol"]
    assert decision["source.ip"] and decision["source.port"]
    assert decision["rule.name"] == "allowed.example" and decision["rule.ruleset"] and decision["rule.version"]
    assert end["event.action"] == "flow-ended" and end["event.type"] == ["connection", "end"]
    assert end["event.duration"] > 0 and end["event.start"] <= end["@timestamp"]
    assert end["source.bytes"] > 0 and end["destination.bytes"] > 0
    assert end["sallyport.close_by"] in ("client", "origin") and end["sallyport.close_reason"]


def test_an_http_flow_names_its_method_but_not_its_path(lab):
    run = lab.exec([*CURL, "-X", "DELETE", "http://allowed.example/missing?token=sesame"], **ALLOWED).ok()
    [decision] = run.audit.allowed("allowed.example")
    assert decision["network.protocol"] == "http" and decision["http.request.method"] == "DELETE"
    assert b"sesame" not in run.audit_path.read_bytes() and b"/missing" not in run.audit_path.read_bytes()


def test_a_denial_in_full(lab, family):
    run = lab.exec([*CURL, *past_dns("denied.example", family=family), "https://denied.example/"], **ALLOWED)
    [denial] = run.audit.denied()
    assert denial["event.action"] == "flow-denied" and denial["event.type"] == ["connection", "denied"]
    assert denial["event.outcome"] == "failure" and denial["event.reason"] == "no_rule"
    assert denial["destination.ip"] == address("denied.example", family) and denial["destination.port"] == 443
    assert denial["destination.domain"] == denial["tls.client.server_name"] == "denied.example"


def test_a_client_that_leaves_without_a_word(lab):
    """Nothing was asked, so nothing was decided: one event, the end."""
    run = lab.exec([*lab.client, "connect", address("allowed.example"), "443"], **ALLOWED).ok()
    [end] = run.audit
    assert end["event.action"] == "flow-ended" and end["event.outcome"] == "failure"
    assert end["sallyport.close_by"] == "client" and "before_hello" in end["sallyport.close_reason"]


def test_hostile_names_stay_inside_their_string(lab):
    """Bytes that would end a JSON string, a line, or colour a terminal (Audit.read refuses raw ones)."""
    hosts = ['a"b', "a\\\\b", "a\\x1b[31mb", "a\\xff\\xfeb", "a\\tb", '","event":{"x":"', "a\\x7fb"]
    story = ";".join(f"{' '.join(lab.client)} send 198.18.1.1 80 'GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n'" for host in hosts)
    run = lab.exec(["sh", "-c", story], **ALLOWED).ok()
    assert len(run.audit.denied()) == len(hosts)


def test_a_hostile_question_too(lab):
    question = ["dig", "+tries=1", "+time=4", 'a\\"b\\010\\255\\;.denied.example', "TXT"]
    run = lab.exec(question, **ALLOWED).ok()
    [denial] = run.audit.where(event_action="dns-denied")
    assert "denied.example" in denial["dns.question.name"]


def test_requests_on_a_kept_alive_connection_have_events(lab):
    story = "import http.client; c = http.client.HTTPConnection('allowed.example')\n" \
            "for host in ('allowed.example', 'allowed.example', 'denied.example'):\n" \
            "    c.request('GET', '/', headers={'Host': host}); print(c.getresponse().read())"
    run = lab.exec(["python3", "-c", story], **ALLOWED).ok()
    assert len(run.audit.allowed()) == 1
    [denial] = run.audit.where(event_action="request-denied")
    assert denial["destination.domain"] == "denied.example"


def test_sigusr1_reopens_the_file(lab):
    """As logrotate does it: move the file away, send SIGUSR1; nothing is lost between the two."""
    go = lab.start(["sh", "-c", "while read name; do curl -sS http://allowed.example/$name >/dev/null; echo did $name; done"], **ALLOWED)
    go.say("one\n")
    assert go.line() == "did one"
    go.wait_for_event(lambda audit: audit.where(event_action="flow-ended"))
    old = go.audit_path.with_suffix(".1")
    os.rename(go.audit_path, old)
    os.kill(go.process.pid, signal.SIGUSR1)
    wait_until(go.audit_path.exists, "the new audit file")
    go.say("two\n")
    assert go.line() == "did two"
    go.process.stdin.close()
    go.process.stdin = None
    assert go.process.wait(20) == 0
    both = [json.loads(line) for part in (old, go.audit_path) for line in part.read_text().splitlines()]
    numbers = [event["event"]["sequence"] for event in both]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    actions = [event["event"]["action"] for event in both]
    assert actions.count("flow-allowed") == actions.count("flow-ended") == 2
    assert "flow-allowed" in go.audit_path.read_text() and "flow-allowed" in old.read_text()


def test_the_file_is_for_its_owner(lab, user):
    run = lab.exec(["true"], user=user, **ALLOWED).ok()
    assert stat.S_IMODE(run.audit_path.stat().st_mode) & 0o007 == 0
    assert run.audit_path.stat().st_uid == (user or 0)


def test_an_existing_log_is_continued_not_overwritten(lab):
    log = lab.folder / "continued.jsonl"
    log.write_text('{"the": "past"}\n')
    lab.exec([*CURL, "https://allowed.example/"], audit=False, options=["--audit", log], **ALLOWED).ok()
    assert log.read_text().startswith('{"the": "past"}\n') and "flow-allowed" in log.read_text()


def test_without_a_log_it_works_too(lab):
    lab.exec([*CURL, "https://allowed.example/"], audit=False, **ALLOWED).ok()


def test_a_full_disk_lets_nothing_pass_unseen(lab):
    """on_full: deny is the default. /dev/full takes no byte: no flow is let through unaudited for good."""
    run = lab.exec(["sh", "-c", "for n in 1 2 3 4 5 6; do curl -sS --max-time 5 -o /dev/null https://allowed.example/ && echo through;"
                    "sleep 0.2; done; true"], audit=False, options=["--audit", "/dev/full"], **ALLOWED)
    assert run.out.count("through") <= 1, run
