"""The lab itself, without a gateway: what the other tests take for granted about the origins and the capture."""
import pytest

import origins

CURL = ["curl", "-sS", "--max-time", "10"]


@pytest.mark.parametrize("name", ["allowed.example", "denied.example", "a.b.wild.example", "tls12.example", "tls13.example"])
def test_every_name_is_served_with_its_own_certificate(lab, family, name):
    told = lab.direct([*CURL, f"https://{name}/", "--resolve", f"{name}:443:{origins.address(name, family)}"]).ok()
    assert told.out.startswith(f"{name} at {origins.address(name, family)} by HTTP/2.0")


def test_the_name_server_answers_and_writes_down_the_question(lab):
    told = lab.direct(["dig", "+short", f"@{origins.NAME_SERVER}", "denied.example", "A"]).ok()
    assert told.out.strip() == "198.18.2.1"
    assert lab.dns_queries() == {"denied.example"}


def test_the_capture_sees_what_leaves(lab):
    uplink = lab.capture()
    lab.direct([*lab.client, "udp", "198.18.1.1", "443"])
    lab.direct(["ping", "-c", "1", "-W", "1", "198.18.1.1"]).ok()
    lab.direct([*lab.client, "connect", "198.18.1.1", "8081"])
    assert {(packet.protocol, packet.dport) for packet in uplink.towards("198.18.1.1")} == {
        ("udp", 443), ("icmp", 0), ("tcp", 8081)}
    assert uplink.carrying("a datagram that must not leave")


def test_ssh_git_and_websocket_origins_work(lab, tmp_path):
    ssh = ["ssh", "-F", "none", "-i", str(lab.folder / "ssh_user_key"), "-o", f"UserKnownHostsFile={lab.folder}/known_hosts",
           "-o", "HostKeyAlias=ssh.example", f"root@{origins.address('ssh.example')}", "echo", "in"]
    assert lab.direct(ssh).ok().out == "in\n"
    resolve = "git.example:443:" + origins.address("git.example")
    lab.direct(["git", "-c", f"http.curloptResolve={resolve}", "clone", "-q", "https://git.example/git/story.git",
                str(tmp_path / "clone")]).ok()
    assert (tmp_path / "clone/README").exists()


@pytest.mark.parametrize("kind, size", [("segments", 1), ("records", 7)])
def test_the_origin_takes_a_client_hello_in_pieces(lab, kind, size):
    told = lab.direct([*lab.client, "hello", kind, str(size), origins.address("allowed.example"), "allowed.example"]).ok()
    assert told.out.startswith("allowed.example at")
