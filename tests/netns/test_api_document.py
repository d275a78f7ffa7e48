"""doc/API.md cannot lie: every example is run, in order, and what it says is what comes."""
import json
import re
import subprocess

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import ROOT

DOCUMENT = ROOT / "doc/API.md"
POLICY = "policies:\n  agents: {allow: [api.example.com]}\n  nothing: {}\n"
VARY = {"version", "policy_version", "monitor", "worker", "pid", "netns", "since", "at", "by", "file", "line"}  # by machine and moment


def examples():
    """(command, what it prints), in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", DOCUMENT.read_text(), flags=re.M | re.S):
        found += re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.M)
    return found


def alike(shown, printed, key=""):
    """The same, but for what varies: then of the same type."""
    if type(shown) is not type(printed):
        return False
    if isinstance(shown, dict):
        return list(shown) == list(printed) and all(alike(shown[k], printed[k], k) for k in shown)
    if isinstance(shown, list):
        return len(shown) == len(printed) and all(map(alike, shown, printed))
    return key in VARY or shown == printed


def run(gateway, command, pid):
    line = command.replace("/run/sallyport/api.sock", str(gateway.api))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**gateway.lab.environment(), "PID": str(pid)}, timeout=60)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def test_every_example_prints_what_the_document_says(make_gateway):
    gateway = make_gateway(POLICY)
    box = gateway.container(enroll=False)
    seen = examples()
    assert len(seen) > 18
    for command, shown in seen:
        printed = run(gateway, command, box.pid)
        if shown.startswith("{"):
            assert alike(json.loads(shown), json.loads(printed)), f"$ {command}\nshown:\n{shown}\nprinted:\n{printed}"
            assert printed.count("\n") == shown.count("\n")
        else:
            assert shown == printed, f"$ {command}\nshown:\n{shown}\nprinted:\n{printed}"


def test_every_endpoint_is_in_the_document_with_an_example():
    text = DOCUMENT.read_text()
    table = re.findall(r'\{"([A-Z]+)", "([^"]+)", (?:true|false), \w+\}', (ROOT / "redirect/daemon/api_route.c").read_text())
    assert len(table) > 15
    headings = {part.strip() for line in re.findall(r"^### (.*)$", text, flags=re.M) for part in line.split(",")}
    written = {f"{method} {path.replace('/v1/policies/*', '/v1/policies/NAME').replace('*', 'ID')}" for method, path in table}
    assert headings == written, headings ^ written
    commands = [command for command, _ in examples()]
    for method, path in table:
        pattern = path.replace("*", "[^/ ]+")
        def uses(command):
            given = re.search(r"-X (\w+)", command)
            return re.search(rf"http://localhost{pattern}(?= |$)", command) and \
                (given[1] if given else "POST" if " -d " in command else "GET") == method
        assert any(map(uses, commands)), f"no example of {method} {path}"
