"""ECH: the outer name decides, that it was offered is recorded, and `ech: deny` refuses it."""
import shutil

import pytest

from origins import address
from test_dns import DIG

ACCESS_DENIED = "alert 31"


def visit(lab, kind, name, rule, ech):
    config = lab.config(f"version: 1\npolicies: {{story: {{allow: [{rule}], ech: {ech}}}}}\n")
    return lab.exec([*lab.client, "ech", kind, address(name), name], config=config)


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["outer", "inner", "none"])
def test_offered_ech_is_recorded(lab, kind):
    run = visit(lab, kind, "tls13.example", "tls13.example", "record").ok()
    assert run.out.strip() == "handshake"
    [flow] = run.audit.allowed("tls13.example")
    assert flow["sallyport.ech_offered"] == (kind != "none")


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["outer", "inner", "none"])
def test_ech_deny_refuses_it_and_nothing_else(lab, kind):
    uplink = lab.capture()
    run = visit(lab, kind, "tls13.example", "tls13.example", "deny").ok()
    if kind == "none":
        assert run.out.strip() == "handshake" and run.audit.allowed("tls13.example")
        return
    assert run.out.strip() == ACCESS_DENIED and run.audit.reasons("tls13.example") == {"ech_denied"}
    assert not uplink.towards(address("tls13.example"))


@pytest.mark.parametrize("ech", ["record", "deny"])
def test_the_outer_name_decides(lab, ech):
    """Whatever the sealed inner hello says: a denied name in the clear is denied as such."""
    run = visit(lab, "outer", "denied.example", "allowed.example", ech).ok()
    assert run.out.strip() == ACCESS_DENIED and run.audit.reasons("denied.example") <= {"no_rule", "ech_denied"}
    assert run.audit.denied()[0]["sallyport.ech_offered"]


def test_honest_clients_find_no_key_for_it(lab):
    """The name service takes `ech` out, so who heeds DNS does not hide a name."""
    run = lab.exec([*DIG, "service.example", "HTTPS"], allow=["service.example"]).ok()
    assert "ipv4hint" in run.out and "ech" not in run.out


# --- a real browser, which always seems to offer it (GREASE) --------------------------------------------------------------

BROWSER = "chromium-headless-shell"


@pytest.fixture
def browse(lab):
    if not shutil.which(BROWSER, path="/usr/bin"):
        pytest.skip(f"{BROWSER} is not installed (scripts/install-deps test)")

    def visit(name, ech):
        config = lab.config(f"version: 1\npolicies: {{story: {{allow: [{name}], ech: {ech}}}}}\n")
        # Its own sandbox wants namespaces, which the enclosure does not give; the test's authority is none of its own.
        return lab.exec([BROWSER, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--single-process",
                         "--ignore-certificate-errors", "--dump-dom", f"https://{name}/"], config=config)
    return visit


def test_chromium_is_served_and_its_offer_recorded(browse):
    run = browse("tls13.example", "record").ok()
    assert "tls13.example at " in run.out
    assert all(flow["sallyport.ech_offered"] for flow in run.audit.allowed("tls13.example"))


def test_chromium_is_refused_by_ech_deny(lab, browse):
    uplink = lab.capture()
    run = browse("tls13.example", "deny")
    assert "tls13.example at " not in run.out and run.audit.reasons("tls13.example") == {"ech_denied"}
    assert not uplink.towards(address("tls13.example"), address("tls13.example", 6))
