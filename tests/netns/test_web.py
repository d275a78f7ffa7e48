"""Allowed sites work from a sealed command, with the programs people use; denied ones do not."""
import json

import pytest

from lab import ORDINARY_USER
from origins import address

CURL = ["curl", "-sS", "--max-time", "20"]
ALLOWED = {"allow": ["allowed.example"]}


def past_dns(name, at=None, family=4, port=443):
    """curl options that skip DNS: the way a name reaches the gateway when a client knows an address for it."""
    place = at or address(name, family)
    return ["--resolve", f"{name}:{port}:{'[' + place + ']' if ':' in place else place}"]


@pytest.mark.smoke
@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
def test_an_allowed_site_works(lab, user, family, scheme, port):
    run = lab.exec([*CURL, f"-{family}", f"{scheme}://allowed.example/hello"], user=user, **ALLOWED).ok()
    # The origin that was dialled is the right one, over the family the client chose.
    assert run.out.startswith(f"allowed.example at {address('allowed.example', family)} by HTTP/")
    [flow] = run.audit.allowed("allowed.example")
    assert flow["event.reason"] == "rule_allow" and flow["rule.name"] == "allowed.example"
    assert flow["destination.ip"] == address("allowed.example", family) and flow["destination.port"] == port
    [end] = run.audit.ended("allowed.example")
    assert end["event.id"] == flow["event.id"]
    assert end["source.bytes"] > 50 and end["destination.bytes"] > len(run.out)


@pytest.mark.smoke
@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
def test_a_denied_site_does_not(lab, user, family, scheme, port):
    uplink = lab.capture()
    run = lab.exec([*CURL, *past_dns("denied.example", family=family, port=port), f"{scheme}://denied.example/secret"],
                   user=user, **ALLOWED)
    assert run.audit.reasons("denied.example") == {"no_rule"}
    assert "at " + address("denied.example", family) not in run.out
    assert not uplink.packets() and not lab.requests()


def test_without_dns_there_is_no_denied_site_at_all(lab, family):
    run = lab.exec([*CURL, f"-{family}", "https://denied.example/"], **ALLOWED)
    assert run.status == 6, run  # curl: could not resolve host
    assert run.audit.dns_denied() == {"denied.example"}


@pytest.mark.parametrize("version", ["--http1.1", "--http2", "--tls-max 1.2", "--tlsv1.3"])
def test_curl_versions(lab, version):
    run = lab.exec([*CURL, *version.split(), "https://allowed.example/"], **ALLOWED).ok()
    assert "HTTP/1.1" in run.out if version == "--http1.1" else "HTTP/2.0" in run.out


@pytest.mark.parametrize("name", ["tls12.example", "tls13.example"])
def test_origins_of_either_tls_version(lab, family, name):
    assert f"{name} at" in lab.exec([*CURL, f"-{family}", f"https://{name}/"], allow=[name]).ok().out


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_keep_alive_is_kept(lab, scheme):
    url = f"{scheme}://allowed.example/"
    run = lab.exec([*CURL, "--http1.1", "-w", "%{num_connects}\n", url, url, url], **ALLOWED).ok()
    assert [line for line in run.out.splitlines() if line.isdigit()] == ["1", "0", "0"]
    assert len(run.audit.allowed()) == 1


def test_openssl_verifies_the_origins_own_certificate(lab, family):
    run = lab.exec(["openssl", "s_client", "-brief", "-verify_return_error", "-CAfile", lab.authority,
                    "-servername", "allowed.example", "-verify_hostname", "allowed.example",
                    "-connect", "allowed.example:443", f"-{family}"], **ALLOWED).ok()
    assert "Verification: OK" in run.err and "CN = allowed.example" in run.err


def test_wget(lab, family):
    run = lab.exec(["wget", "-q", "-O", "-", f"-{family}", f"--ca-certificate={lab.authority}", "https://allowed.example/"],
                   **ALLOWED).ok()
    assert run.out.startswith("allowed.example at")


def test_python(lab):
    story = "import urllib.request as r; print(r.urlopen('https://allowed.example/').read().decode())"
    assert lab.exec(["python3", "-c", story], **ALLOWED).ok().out.startswith("allowed.example at")


def test_node(lab):
    story = "require('https').get('https://allowed.example/', answer => answer.pipe(process.stdout))"
    assert lab.exec(["node", "-e", story], **ALLOWED).ok().out.startswith("allowed.example at")


def test_in_a_user_namespace_with_one_user(lab):
    """As rootless containers have it: root by name, no other uid to change to, setgroups denied."""
    line, audit_path = lab.command_line([*CURL, "https://allowed.example/"], **ALLOWED)
    run = lab.start_line(["unshare", "--user", "--map-root-user", "--", *line], audit_path, user=ORDINARY_USER).wait()
    assert run.ok().out.startswith("allowed.example at")


def test_git_clones_and_pushes(lab, tmp_path):
    clone = tmp_path / "clone"
    story = f"""set -e
        git clone -q https://git.example/git/story.git {clone}
        cd {clone}; git checkout -q -b chapter; head -c 3000000 /dev/urandom > picture; git add picture
        git -c user.name=T -c user.email=t@allowed.example commit -q -m "Add a picture"
        git push -q origin chapter 2>&1
        git ls-remote origin chapter; git rev-parse HEAD"""
    run = lab.exec(["sh", "-c", story], allow=["git.example"]).ok()
    remote, local = run.out.split()[0], run.out.split()[-1]
    assert remote == local and len(local) == 40


# --- names ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["sub.wild.example", "a.b.wild.example"])
@pytest.mark.parametrize("rule", ["*.wild.example", "**.wild.example"])
def test_a_wildcard_allows_names_at_any_depth(lab, name, rule):
    assert f"{name} at" in lab.exec([*CURL, f"https://{name}/"], allow=[rule]).ok().out


@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
def test_a_wildcard_does_not_allow_its_apex(lab, scheme, port):
    run = lab.exec([*CURL, *past_dns("wild.example", port=port), f"{scheme}://wild.example/"], allow=["*.wild.example"])
    assert run.audit.reasons("wild.example") == {"no_rule"} and not lab.requests()


@pytest.mark.parametrize("name", ["notallowed.example", "www.allowed.example"])
def test_an_exact_name_allows_neither_longer_nor_deeper_ones(lab, name):
    run = lab.exec([*CURL, *past_dns(name), f"https://{name}/"], **ALLOWED)
    assert run.status != 0 and run.audit.reasons(name) == {"no_rule"}


def test_deny_beats_allow(lab):
    policy = lab.config("""
version: 1
policies:
  story:
    allow: ["*.allowed.example", allowed.example]
    deny: [www.allowed.example]
""")
    run = lab.exec(["sh", "-c", "curl -sS https://allowed.example/; "
                    "curl -sS --resolve www.allowed.example:443:198.18.1.2 https://www.allowed.example/"],
                   config=policy, options=["--policy", "story"])
    assert run.out.startswith("allowed.example at") and run.status == 35
    [denial] = run.audit.denied("www.allowed.example")
    assert denial["event.reason"] == "rule_deny" and denial["rule.name"] == "www.allowed.example"
    assert denial["rule.ruleset"] == "story"


def test_case_and_one_trailing_dot_do_not_matter(lab):
    for url in ("https://ALLOWED.Example/", "https://allowed.example./", "http://Allowed.EXAMPLE./"):
        lab.exec([*CURL, "-k", url], **ALLOWED).ok()


def test_a_denied_name_on_the_address_of_an_allowed_one_is_denied(lab):
    """Both live on one address, as on a CDN: the name decides."""
    story = """curl -sS https://allowed.example/ &&
        curl -sS --resolve cdn-denied.example:443:198.18.1.1 https://cdn-denied.example/"""
    run = lab.exec(["sh", "-c", story], **ALLOWED)
    assert run.audit.allowed("allowed.example") and run.audit.reasons("cdn-denied.example") == {"no_rule"}
    assert not any("cdn-denied" in line for line in lab.requests())


def test_an_empty_policy_allows_nothing(lab):
    policy = lab.config("version: 1\npolicies: {nothing: {allow: []}}\n")
    run = lab.exec([*CURL, *past_dns("allowed.example"), "https://allowed.example/"],
                   config=policy, options=["--policy", "nothing"])
    assert run.status == 35 and run.audit.reasons() == {"no_rule"}


def test_only_ipv4_or_only_ipv6(lab, family):
    name = f"v{family}only.example"
    assert f"{name} at" in lab.exec([*CURL, f"https://{name}/"], allow=[name]).ok().out


def test_one_dead_address_of_two_is_ours_to_survive(lab):
    for _ in range(4):  # the name server turns its answers round
        assert "half-dead.example at 198.18.1.5" in lab.exec([*CURL, "https://half-dead.example/"],
                                                             allow=["half-dead.example"]).ok().out


def test_two_hundred_clients_at_once(lab):
    story = "seq 200 | xargs -P 200 -I{} curl -sS --max-time 40 -o /dev/null -w '%{http_code}\\n' 'https://allowed.example/?{}'"
    run = lab.exec(["sh", "-c", story], timeout=120, **ALLOWED).ok()
    assert run.out.split() == ["200"] * 200
    assert len(run.audit.allowed()) == len(run.audit.ended("allowed.example")) == 200
    assert len({json.dumps(flow["event.id"]) for flow in run.audit.allowed()}) == 200
