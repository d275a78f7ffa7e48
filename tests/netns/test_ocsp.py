"""verify_origin and revocation: the OCSP response that a server staples, made by `openssl ocsp`, sent by `openssl s_server`."""
import itertools
import subprocess

import pytest

from lab import wait_until
from origins import _openssl
from test_web import CURL

ports = itertools.count(8700)
NAME, PLACE = "staple.example", "198.18.6.9"
REVOKED = "the origin's certificate was revoked, as the OCSP response that it sends says"
NONE = "the origin sends no OCSP response that holds"
DEMANDED = "the origin sends no OCSP response that holds, and its certificate demands one"


@pytest.fixture(scope="module")
def authority(whole_lab):
    """Two leaves of the lab's authority, one that demands staples, and its book of what it issued and revoked."""
    folder = whole_lab.folder
    lines = []
    for number, (name, more) in enumerate((("plain", ""), ("demanding", "tlsfeature=status_request\n")), 0x5001):
        (folder / "ocsp.extensions").write_text(f"subjectAltName=DNS:{NAME}\nbasicConstraints=critical,CA:FALSE\n{more}")
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={NAME}",
                 "-keyout", folder / f"{name}.key", "-out", folder / "ocsp.csr")
        _openssl("x509", "-req", "-in", folder / "ocsp.csr", "-extfile", folder / "ocsp.extensions", "-days", 2, "-set_serial", number,
                 "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-out", folder / f"{name}.pem")
        lines.append((f"{number:X}", name))
    for status, mark, date in (("good", "V", ""), ("revoked", "R", "260101000000Z,keyCompromise")):
        (folder / f"index-{status}").write_text("".join(f"{mark}\t400101000000Z\t{date}\t{serial}\tunknown\t/CN={leaf}\n"
                                                        for serial, leaf in lines))
    return folder


def staple(folder, leaf, status, days=1):
    """What the authority says of a leaf, in a file."""
    response = folder / f"{leaf}-{status}-{days}.ocsp"
    request = folder / "ocsp.request"
    _openssl("ocsp", "-issuer", folder / "ca.pem", "-cert", folder / f"{leaf}.pem", "-no_nonce", "-reqout", request)
    _openssl("ocsp", "-index", folder / f"index-{status}", "-CA", folder / "ca.pem", "-rsigner", folder / "ca.pem",
             "-rkey", folder / "ca.key", "-reqin", request, "-respout", response, "-ndays", days)
    return response


@pytest.fixture
def serve(lab, authority):
    started = []

    def start(leaf, response=None):
        port = next(ports)
        argv = ["openssl", "s_server", "-accept", f"{PLACE}:{port}", "-cert", authority / f"{leaf}.pem", "-key",
                authority / f"{leaf}.key", "-www", "-quiet", *(["-status_file", response] if response else [])]
        started.append(lab.internet.spawn_itself(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        probe = ["curl", "-sk", "-o", "/dev/null", f"https://{PLACE}:{port}/"]
        wait_until(lambda: lab.host.run(*probe, check=False).returncode == 0, "s_server")
        return port
    yield start
    for one in started:
        one.kill()
        one.wait()


def visit(lab, port, ocsp=None):
    """By an address that DNS does not have for the name, so that all depends on the certificate. (s_server serves one
    connection after the other; `always` would hold the client's while it makes its own.)"""
    said = f", ocsp: \"{ocsp}\"" if ocsp else ""
    config = lab.config(f"version: 1\ngateway: {{hosts: {{{NAME}: 198.18.6.8}}{said}}}\n"
                        f"policies: {{story: {{allow: [\"https://{NAME}:{port}\"], verify_origin: fallback, bind: strict}}}}\n")
    return lab.exec([*CURL, "-k", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", f"{NAME}:{port}:{PLACE}", f"https://{NAME}:{port}/"], config=config)


def check(run, why):
    if why is None:
        assert run.ok().out == "200" and run.audit.allowed()[0]["sallyport.certificate"] == "valid"
    else:
        assert run.status == 35 and run.audit.reasons() == {"destination_unbound"}
        assert run.audit.denied()[0]["sallyport.certificate"] == why


@pytest.mark.smoke
@pytest.mark.parametrize("leaf, status, by_default, required", [
    ("plain", "good", None, None),
    ("plain", "revoked", REVOKED, REVOKED),
    ("plain", None, None, NONE),
    ("demanding", "good", None, None),
    ("demanding", None, DEMANDED, DEMANDED),
])
def test_what_is_stapled(lab, authority, serve, leaf, status, by_default, required):
    port = serve(leaf, staple(authority, leaf, status) if status else None)
    check(visit(lab, port), by_default)
    check(visit(lab, port, "staple"), by_default)
    check(visit(lab, port, "require"), required)
    check(visit(lab, port, "off"), None)


def test_a_staple_of_another_certificate_is_none(lab, authority, serve):
    """The thief of a key staples what the authority says of somebody else."""
    port = serve("demanding", staple(authority, "plain", "good"))
    check(visit(lab, port), DEMANDED)


def test_nobody_is_asked(lab, authority, serve):
    """Whatever is required, no responder hears of it: to the server and nowhere else."""
    port = serve("plain")
    uplink = lab.capture()
    check(visit(lab, port, "require"), NONE)
    assert {(packet.destination, packet.dport) for packet in uplink.packets() if packet.source == "198.19.0.2"} == {(PLACE, port)}
