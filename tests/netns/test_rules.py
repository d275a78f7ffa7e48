"""Rules beyond names on 80 and 443: other ports by name, by address, by network."""
import pytest

from origins import address
from test_web import CURL, past_dns

FINISHED = "end.example"


def ssh(lab, family, *command):
    """As root only: the key is root's."""
    return ["ssh", f"-{family}", "-F", "none", "-i", lab.folder / "ssh_user_key", "-o", f"UserKnownHostsFile={lab.folder}/known_hosts",
            "-o", "BatchMode=yes", "root@ssh.example", *command]


def test_ssh_by_a_tcp_rule(lab, family):
    """The server speaks first: nothing is read, the name comes from the DNS answer."""
    run = lab.exec(ssh(lab, family, "echo in"), allow=["tcp://ssh.example:22"])
    assert run.ok().out == "in\n"
    [flow] = run.audit.allowed("ssh.example")
    assert flow["destination.port"] == 22 and flow["destination.ip"] == address("ssh.example", family)
    assert flow["rule.name"] == "tcp://ssh.example:22"


def test_a_tcp_rule_opens_its_name_only(lab, family):
    """The port is captured now, yet another address there belongs to no allowed name."""
    uplink = lab.capture()
    run = lab.exec([*lab.client, "send", address("allowed.example", family), "22", "hello\\r\\n"], allow=["tcp://ssh.example:22"])
    assert run.audit.reasons() <= {"no_rule", "destination_unbound"} and run.audit.denied()
    assert not uplink.packets()


def test_an_address_that_was_not_asked_for_by_name_is_not_bound(lab):
    """tcp:// rules need the name from DNS: the bare address alone proves nothing, even if it is the right one."""
    run = lab.exec([*lab.client, "send", address("ssh.example"), "22", "x"], allow=["tcp://ssh.example:22"])
    assert run.audit.reasons() <= {"no_rule", "destination_unbound"} and run.audit.denied()


def test_https_on_another_port(lab, family):
    """There the name is read from the ClientHello as on 443."""
    rule = ["https://allowed.example:8443"]
    run = lab.exec([*CURL, f"-{family}", "https://allowed.example:8443/"], allow=rule).ok()
    assert run.out.startswith("allowed.example at") and run.audit.allowed()[0]["destination.port"] == 8443
    run = lab.exec([*CURL, *past_dns("denied.example", family=family, port=8443), "https://denied.example:8443/"], allow=rule)
    assert run.status == 35 and run.audit.reasons() == {"no_rule"}
    run = lab.exec([*CURL, "https://allowed.example/"], allow=rule)
    assert run.status == 35 and run.audit.reasons() == {"no_rule"}  # 443 is not what the rule says


def test_a_network_rule(lab, family):
    net = {4: "198.18.7.0/24:7002", 6: "[2001:db8:5a11::7:0]/112:7002"}[family]
    talk = [*lab.client, "reset-by-client", address(FINISHED, family)]
    run = lab.exec([*talk, "7002"], allow=[net]).ok()
    assert run.out == "welcome\n"
    [flow] = run.audit.allowed()
    assert flow["rule.name"] == net and flow["destination.port"] == 7002
    uplink = lab.capture()
    assert lab.exec([*talk, "7003"], allow=[net]).status != 0  # another port
    assert lab.exec([*lab.client, "reset-by-client", address("allowed.example", family), "7002"], allow=[net]).status != 0
    assert not uplink.packets()


def test_a_network_rule_opens_the_guard_for_its_network(lab):
    """No `destinations: allow` here: the rule itself names the network."""
    run = lab.exec([*lab.client, "reset-by-client", address(FINISHED), "7002"], allow=["198.18.7.0/24:7002"], destinations=False)
    assert run.ok().out == "welcome\n"


def test_every_name_is_still_not_every_place(lab):
    """`*` allows names; addresses, other ports and guarded places stay shut."""
    uplink = lab.capture()
    lab.exec([*CURL, "https://denied.example/"], allow=["*"]).ok()
    assert uplink.towards("198.18.2.1")
    run = lab.exec([*CURL, *past_dns("metadata.example", "169.254.169.254", port=80), "http://metadata.example/latest"], allow=["*"])
    assert run.audit.reasons() == {"destination_guarded"}
    run = lab.exec([*lab.client, "connect", "198.18.1.1", "22"], allow=["*"]).ok()
    assert not run.out.startswith("connected")


def test_names_from_a_file_and_from_a_profile(lab):
    (lab.folder / "names.txt").write_text("# those we like\n0.0.0.0 allowed.example\nsub.wild.example # this too\n")
    policy = lab.config("""
version: 1
policies:
  base: {allow_files: [names.txt]}
  story: {extends: base, deny: [sub.wild.example]}
""")
    def ask(name, chosen):
        return lab.exec([*CURL, *past_dns(name), f"https://{name}/"], config=policy, options=["--policy", chosen])
    ask("allowed.example", "base").ok()
    ask("sub.wild.example", "base").ok()
    ask("allowed.example", "story").ok()
    assert ask("sub.wild.example", "story").audit.reasons() == {"rule_deny"}
    ask("denied.example", "unrestricted").ok()
    assert ask("allowed.example", "airgapped").audit.reasons() == {"no_rule"}


METHOD_AND_PATH = {
    # story: (curl's words, status, reason)
    "what the rule says": (["http://allowed.example/files/missing"], "404", None),
    "another method": (["-X", "POST", "http://allowed.example/files/missing"], "403", "method_denied"),
    "another path": (["http://allowed.example/secret"], "403", "path_denied"),
    "a way out of the path": (["--path-as-is", "http://allowed.example/files/../secret"], "403", "path_denied"),
    "an escaped way out": (["http://allowed.example/files/%2e%2e/secret"], "403", "path_denied"),
    "TLS, where no path can be seen": ([*past_dns("allowed.example"), "https://allowed.example/files/missing"], "000", "no_rule"),
}


@pytest.mark.parametrize("words, status, reason", METHOD_AND_PATH.values(), ids=METHOD_AND_PATH)
def test_a_rule_for_a_method_and_a_path(lab, words, status, reason):
    run = lab.exec([*CURL, "-o", "/dev/null", "-w", "%{http_code}", *words], allow=["GET http://allowed.example/files/*"])
    assert run.out == status and run.audit.reasons() == ({reason} if reason else set())
    assert not any("secret" in line or "POST" in line for line in lab.requests())


def test_a_later_request_to_another_path(lab):
    urls = ["http://allowed.example/files/missing", "http://allowed.example/secret"]
    run = lab.exec([*CURL, "-o", "/dev/null", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", *urls],
                   allow=["GET http://allowed.example/files/*"])
    assert run.out.split() == ["404", "1", "403", "0"] and run.audit.reasons() == {"path_denied"}
    assert len(lab.requests()) == 1


def test_a_policy_that_only_records(lab):
    policy = lab.config("version: 1\npolicies: {story: {mode: audit, allow: [allowed.example]}}\n")
    run = lab.exec(["sh", "-c", "curl -sS https://denied.example/; curl -sS https://allowed.example/"], config=policy).ok()
    assert "denied.example at" in run.out
    assert run.audit.allowed("denied.example")[0]["sallyport.would_deny"] is True
    assert "sallyport.would_deny" not in run.audit.allowed("allowed.example")[0]
    # The guard is no rule: it holds in every mode.
    run = lab.exec([*CURL, *past_dns("metadata.example", "169.254.169.254", port=80), "http://metadata.example/"], config=policy)
    assert run.audit.reasons() == {"destination_guarded"}


@pytest.mark.parametrize("rule", [":7002", "*:7002", "*:*", ":7000-7010", "tcp://end.example:*", "tcp://end.example:7000-7002", "tcp://*:7002",
                                  "tcp://*.example:7002", "198.18.7.1:*", "198.18.7.1", "tcp://198.18.7.1:7002", "0.0.0.0/0:7002"])
def test_forms_of_ports(lab, rule):
    """However it is written: that port opens, and another one only where the rule holds it."""
    talk = [*lab.client, "reset-by-client", FINISHED]
    run = lab.exec([*talk, "7002"], allow=[rule, "end.example"]).ok()
    assert run.out == "welcome\n" and run.audit.allowed()[0]["destination.port"] == 7002
    every = rule.endswith("*") or rule == "198.18.7.1"
    run = lab.exec([*lab.client, "connect", FINISHED, "7011"], allow=[rule, "end.example"]).ok()
    assert bool(run.audit.where(event_action="packet-denied")) != every


@pytest.mark.parametrize("rule", ["[2001:db8:5a11::7:0]/112:7000-7010", "2001:db8:5a11::7:1", "[2001:db8:5a11::7:1]:7002", "[::]/0:7002",
                                  "tcp://[2001:db8:5a11::]/48:*", "*:7002"])
def test_forms_of_ports_over_ipv6(lab, rule):
    place = address(FINISHED, 6)
    assert lab.exec([*lab.client, "reset-by-client", place, "7002"], allow=[rule]).ok().out == "welcome\n"
    uplink = lab.capture()
    run = lab.exec([*lab.client, "reset-by-client", address(FINISHED, 4), "7002"], allow=[rule])
    assert (run.status == 0) == (rule == "*:7002") == bool(uplink.packets())
