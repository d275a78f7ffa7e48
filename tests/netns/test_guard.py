"""The address guard, range by range: by a name that resolves there, and by the address itself."""
import pytest

from test_web import CURL

NEVER = ["0.0.0.0", "127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254", "168.63.129.16", "100.100.100.200",
         "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254"]
PRIVATE = ["10.0.0.1", "100.64.0.1", "172.16.0.1", "172.31.255.254", "192.0.0.1", "192.0.2.1", "192.168.0.1", "198.51.100.1",
           "203.0.113.1", "240.0.0.1", "100::1", "fc00::1", "fd12::1", "3fff::1", "5f00::1", "fec0::1"]
EMBEDDED = ["::ffff:10.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::",
            "2001:0:a9fe:a9fe::f5ff:fffe", "64:ff9b:1::a9fe:a9fe"]
ALL = NEVER + PRIVATE + EMBEDDED


def test_by_a_name_that_resolves_there(lab):
    """Every one of them behind a name of its own, which is allowed: refused by DNS, and refused when DNS is passed by."""
    hosts = ", ".join(f'n{i}.example: "{place}"' for i, place in enumerate(ALL))
    config = lab.config(f"version: 1\ngateway: {{hosts: {{{hosts}}}}}\npolicies: {{story: {{allow: [\"*.example\"]}}}}\n"
                        "destinations: {allow: [198.18.0.0/15]}\n")
    ask = f"for i in $(seq 0 {len(ALL) - 1}); do dig +short +tries=1 n$i.example; dig +short +tries=1 n$i.example AAAA; done"
    connect = f"for i in $(seq 0 {len(ALL) - 1}); do {' '.join(CURL)} -k --resolve n$i.example:443:198.18.1.1 https://n$i.example/; done"
    uplink = lab.capture()
    run = lab.exec(["sh", "-c", f"{ask}; echo; {connect}"], config=config)
    assert run.out.strip() == "" and not uplink.packets()
    for i, place in enumerate(ALL):
        assert run.audit.reasons(f"n{i}.example") == {"destination_guarded"}, place
        assert f"n{i}.example" in run.audit.dns_denied(), place


@pytest.mark.parametrize("rule", ["*", ":443", "0.0.0.0/0"])
def test_by_the_address_itself(lab, rule):
    """Rules for any name, any host, any address open none of them; bind: off believes the client and the guard does not."""
    config = lab.config(f"version: 1\npolicies: {{story: {{allow: [\"{rule}\", allowed.example], bind: \"off\"}}}}\n"
                        "destinations: {allow: [198.18.0.0/15]}\n")
    places = " ".join(f"[{place}]" if ":" in place else place for place in ALL)
    story = f"for i in {places}; do {' '.join(CURL)} --max-time 4 -k --resolve allowed.example:443:$i https://allowed.example/; done"
    uplink = lab.capture()
    run = lab.exec(["sh", "-c", story], config=config, timeout=200)
    assert run.out.strip() == "" and not uplink.packets()
    assert not run.audit.allowed() and run.audit.reasons() <= {"destination_guarded"}, run


def test_a_network_that_is_named_is_open_and_no_other(lab):
    hosts = "gateway: {hosts: {inside.example: 10.1.2.3, beside.example: 10.1.3.3}}"
    config = lab.config(f"version: 1\n{hosts}\npolicies: {{story: {{allow: [\"*.example\", \"10.1.2.0/24:443\"]}}}}\n"
                        "destinations: {allow: [198.18.0.0/15]}\n")
    run = lab.exec(["sh", "-c", "dig +short inside.example; dig +short beside.example"], config=config)
    assert run.out.split() == ["10.1.2.3"]


@pytest.mark.parametrize("place", NEVER)
def test_no_configuration_opens_what_is_never_dialled(lab, place):
    length = 128 if ":" in place else 32
    config = lab.config(f"version: 1\ngateway: {{hosts: {{here.example: \"{place}\"}}}}\n"
                        f"policies: {{story: {{allow: [here.example, \"{'[' + place + ']' if ':' in place else place}/{length}:443\"]}}}}\n"
                        f"destinations: {{allow: [\"{place}/{length}\"]}}\n")
    run = lab.exec([*CURL, "-k", "--resolve", "here.example:443:198.18.1.1", "https://here.example/"], config=config)
    assert run.audit.reasons() == {"destination_guarded"}, run
