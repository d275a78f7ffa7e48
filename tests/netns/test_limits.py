"""Whoever takes too much is refused with a reason, and served again when there is room."""
import pytest

from test_web import ALLOWED, CURL

# Opens connections to a server that greets, counts those that were greeted, closes all, tries for one more until there
# is room again.
HOLD = """import socket, sys
def dial():
    try: return socket.create_connection(('198.18.7.1', 7002))
    except ConnectionResetError: return None # refused so soon that connect() was told
def greeted(c):
    try: return c and c.recv(9)
    except OSError: return b''
held = [dial() for _ in range(int(sys.argv[1]))]
print(len([c for c in held if greeted(c)]))
for c in held: c and c.close()
while not greeted(dial()): pass
print('after')
"""


def policy(lab, limits):
    return lab.config(f"""
version: 1
gateway: {{limits: {{{limits}}}}}
policies: {{story: {{allow: [allowed.example, "198.18.7.0/24"]}}}}
""")


def test_flows_of_one_container(lab):
    run = lab.exec(["python3", "-c", HOLD, "30"], config=policy(lab, "flows_per_container: 10"))
    assert run.ok().out.split() == ["10", "after"]
    assert run.audit.reasons() == {"limit_connections"} and len(run.audit.denied()) >= 20


def test_new_flows_a_second(lab):
    run = lab.exec(["python3", "-c", HOLD, "100"], config=policy(lab, "flows_per_second: 20")).ok()
    served, after = run.out.split()
    assert 20 <= int(served) < 100 and after == "after"
    refused = run.audit.denied()
    assert run.audit.reasons() == {"limit_rate"} and len(refused) >= 100 - int(served)


def test_few_descriptors_are_shared_out_not_run_out_of(lab):
    """With room for a few descriptors: some are refused, nothing hangs, and afterwards it serves as before."""
    line, audit_path = lab.command_line(["python3", "-c", HOLD, "100"], config=policy(lab, ""))
    run = lab.start_line(["prlimit", "--nofile=160:160", "--", *line], audit_path).wait()
    assert 0 < int(run.ok().out.split()[0]) < 100 and run.out.endswith("after\n")
    assert run.audit.reasons() == {"limit_connections"}


@pytest.mark.parametrize("soft", [64, 100])
def test_a_low_soft_limit_is_no_obstacle(lab, soft):
    line, audit_path = lab.command_line([*CURL, "https://allowed.example/"], **ALLOWED)
    lab.start_line(["prlimit", f"--nofile={soft}:1000", "--", *line], audit_path).wait().ok()


def test_questions_a_second(lab):
    ask = "dig +tries=1 +time=2" + " allowed.example" * 20 + " | grep -o 'status: [A-Z]*'"  # one process: no time between
    run = lab.exec(["sh", "-c", ask], config=policy(lab, "dns_queries_per_second: 3")).ok()
    assert run.out.count("NOERROR") >= 3 and "REFUSED" in run.out
    assert "limit_rate" in {event["event.reason"] for event in run.audit.where(event_action="dns-denied")}


def test_a_hundred_silent_connections_do_not_hold_up_the_next(lab):
    story = """import socket, subprocess
silent = [socket.create_connection(('198.18.1.1', 443)) for _ in range(100)]
subprocess.run(['curl', '-sS', '--max-time', '5', 'https://allowed.example/'])"""
    assert lab.exec(["python3", "-c", story], **ALLOWED).ok().out.startswith("allowed.example at")
