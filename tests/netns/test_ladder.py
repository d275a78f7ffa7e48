"""Each rung of binding, for each kind of flow and both families; origins of one family; dead addresses; a real DNS tunnel."""
import re
import shutil
import subprocess

import pytest

from lab import NAME_SERVER
from origins import address
from test_web import ALLOWED, CURL, past_dns

SCHEMES = [("https", 443), ("http", 80)]


def policy(lab, bind, *rules, more=""):
    listed = ", ".join(f'"{rule}"' for rule in rules)
    return lab.config(f"version: 1\npolicies: {{story: {{allow: [{listed}], bind: \"{bind}\"{more}}}}}\n")


# --- what is bound how --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bind", ["redial", "strict"])
@pytest.mark.parametrize("scheme, port", SCHEMES)
def test_what_dns_answered_is_dialled(lab, family, bind, scheme, port):
    run = lab.exec([*CURL, f"-{family}", f"{scheme}://allowed.example/"], config=policy(lab, bind, "allowed.example")).ok()
    for event in run.audit.allowed() + run.audit.ended("allowed.example"):
        assert event["sallyport.binding"] == "dns" and "destination.nat.ip" not in event


@pytest.mark.parametrize("bind", ["redial", "strict"])
@pytest.mark.parametrize("scheme, port", SCHEMES)
def test_what_the_gateway_finds_itself_is_dialled(lab, family, bind, scheme, port):
    claimed = past_dns("allowed.example", family=family, port=port)
    run = lab.exec([*CURL, *claimed, f"{scheme}://allowed.example/"], config=policy(lab, bind, "allowed.example")).ok()
    assert {event["sallyport.binding"] for event in run.audit.ended("allowed.example")} == {"resolved"}


@pytest.mark.parametrize("bind, binding, at", [("redial", "redialled", "allowed.example"), ("off", "off", "other.example"),
                                               ("strict", None, None)])
@pytest.mark.parametrize("scheme, port", SCHEMES)
def test_another_address_by_mode(lab, family, bind, binding, at, scheme, port):
    claimed = past_dns("allowed.example", address("other.example", family), port=port)
    uplink = lab.capture()
    run = lab.exec([*CURL, "-k", *claimed, f"{scheme}://allowed.example/"], config=policy(lab, bind, "allowed.example"))
    if not binding:
        assert run.audit.reasons() == {"destination_unbound"}
    else:
        assert run.ok().out.split(" by ")[0].endswith(address(at, family))
        assert run.audit.allowed()[0]["sallyport.binding"] == binding
    assert bool(uplink.towards(address("other.example", family))) == (bind == "off")


ECHO = """import socket, sys
family = {4: socket.AF_INET, 6: socket.AF_INET6}[int(sys.argv[2])]
where = socket.getaddrinfo(sys.argv[1], 7002, family, socket.SOCK_STREAM)[0][4]
s = socket.create_connection(where[:2], timeout=10); f = s.makefile('rwb', 0)
print(f.readline()); f.write(b'echo me\\n'); print(f.readline())"""


@pytest.mark.parametrize("bind, binding", [("redial", "dns"), ("strict", "dns"), ("off", "off")])
def test_other_protocols_are_bound_by_what_was_looked_up(lab, family, bind, binding):
    config = policy(lab, bind, "tcp://end.example:7002")
    run = lab.exec(["python3", "-c", ECHO, "end.example", family], config=config).ok()
    assert run.out.split("\n")[:2] == ["b'welcome\\n'", "b'echo me\\n'"]
    [flow] = run.audit.allowed("end.example")
    assert flow["sallyport.binding"] == binding and flow["destination.ip"] == address("end.example", family)


@pytest.mark.parametrize("bind", ["redial", "strict"])
def test_and_by_nothing_else(lab, family, bind):
    """No name was looked up that has the address, so no rule by name speaks for it."""
    run = lab.exec(["python3", "-c", ECHO, address("end.example", family), family],
                   config=policy(lab, bind, "tcp://end.example:7002"))
    assert run.status and run.audit.reasons() == {"destination_unbound"}


def test_a_denied_name_on_an_allowed_names_address(lab, family):
    """cdn-denied.example shares the address of allowed.example: the name decides, not the address."""
    claimed = past_dns("cdn-denied.example", address("allowed.example", family))
    story = f"curl -{family} -so /dev/null https://allowed.example/; {' '.join([*CURL, *claimed])} https://cdn-denied.example/"
    run = lab.exec(["sh", "-c", story], **ALLOWED)
    assert run.status == 35 and run.audit.reasons("cdn-denied.example") == {"no_rule"}


def test_a_poisoned_hosts_file(lab, user):
    """The command's own hosts file sends an allowed name to another server: redialled all the same."""
    story = f"import socket, ssl\n" \
            f"real = socket.create_connection(('{address('other.example')}', 443))\n" \
            f"s = ssl.create_default_context(cafile='{lab.authority}').wrap_socket(real, server_hostname='allowed.example')\n" \
            f"s.send(b'GET / HTTP/1.0\\r\\nHost: allowed.example\\r\\n\\r\\n')\n" \
            f"data = b''\n" \
            f"while piece := s.recv(4096): data += piece\n" \
            f"print(data.decode().rsplit('\\r\\n', 1)[-1])"
    run = lab.exec(["python3", "-c", story], user=user, **ALLOWED).ok()
    assert run.out.startswith(f"allowed.example at {address('allowed.example')}")


# --- origins of one family, dead addresses ------------------------------------------------------------------------

@pytest.mark.smoke
@pytest.mark.parametrize("name, at", [("v4only.example", "198.18.1.4"), ("v6only.example", "2001:db8:5a11::1:6")])
@pytest.mark.parametrize("scheme, port", SCHEMES)
def test_origins_of_one_family(lab, name, at, scheme, port):
    if ":" in at and not lab.ipv6:
        pytest.skip("this kernel has no IPv6")
    run = lab.exec([*CURL, f"{scheme}://{name}/"], allow=[name]).ok()
    assert run.out.startswith(f"{name} at {at}") and run.audit.allowed()[0]["sallyport.binding"] == "dns"


def test_a_client_of_the_other_family_is_redialled(lab):
    """Claimed over IPv4, but the name only has IPv6, and the other way round: binding crosses families."""
    if not lab.ipv6:
        pytest.skip("this kernel has no IPv6")
    for name, claim, at in (("v6only.example", "198.18.1.1", "2001:db8:5a11::1:6"), ("v4only.example", "2001:db8:5a11::1:1", "198.18.1.4")):
        run = lab.exec([*CURL, *past_dns(name, claim), f"https://{name}/"], allow=[name]).ok()
        assert run.out.startswith(f"{name} at {at}") and run.audit.allowed()[0]["sallyport.binding"] == "redialled"


@pytest.mark.smoke
def test_a_dead_first_address_is_invisible(lab):
    """The client dials the dead address and is answered by the live one, soon (RFC 8305)."""
    run = lab.exec([*CURL, *past_dns("half-dead.example", "198.18.66.1"), "-w", "%{time_total}", "https://half-dead.example/"],
                   allow=["half-dead.example"]).ok()
    assert run.out.startswith("half-dead.example at 198.18.1.5") and float(run.out.rsplit("\n", 1)[-1]) < 3
    end = run.audit.ended("half-dead.example")[0]
    assert end["destination.ip"] == "198.18.66.1" and end["destination.nat.ip"] == "198.18.1.5"


def test_a_dead_first_address_is_waited_for_once(lab):
    """The next connection goes to the live one at once; only the order is another, so a name without others still tries it."""
    once = " ".join([*CURL, *past_dns("half-dead.example", "198.18.66.1"), "https://half-dead.example/"])
    uplink = lab.capture()
    run = lab.exec(["sh", "-c", f"for i in 1 2 3 4 5; do {once}; done"], allow=["half-dead.example"]).ok()
    assert run.out.count("half-dead.example at 198.18.1.5") == 5
    assert len({packet.sport for packet in uplink.towards("198.18.66.1")}) == 1
    assert {end["destination.nat.ip"] for end in run.audit.ended("half-dead.example")} == {"198.18.1.5"}


def test_only_dead_addresses_are_said_to_be_so(lab):
    run = lab.exec([*CURL, "-i", "http://nowhere.example/"], allow=["nowhere.example"])
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"connect_failed"}


def test_a_ttl_of_zero_binds_all_the_same(lab):
    """Names are remembered longer than their answers are kept."""
    run = lab.exec([*CURL, "-k", "https://zero.example/"], allow=["zero.example"]).ok()
    assert run.audit.allowed()[0]["sallyport.binding"] == "dns"


# --- spellings of addresses ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("spelling", ["0x7f000001", "017700000001", "2130706433", "127.1", "0", "0x7f.1", "127.0.0.1.",
                                      "169.254.169.254", "0251.0376.0251.0376", "[::1]", "[::ffff:127.0.0.1]"])
def test_an_address_is_no_name_however_it_is_spelt(lab, spelling):
    request = f"GET / HTTP/1.1\\r\\nHost: {spelling}\\r\\n\\r\\n"
    run = lab.exec([*lab.client, "send", "198.18.1.1", "80", request], allow=["*"])
    assert run.audit.reasons() == {"ip_literal"} and not run.audit.allowed(), run


# --- a real tunnel -------------------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
/* iodine wants a TUN device and ifconfig before it says a word: it gets a socket, and a yes. */
static int device = -1;
int open(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int pair[2];
    if (strcmp(path, "/dev/net/tun"))
        return real(path, flags, 0600);
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    return device = pair[0];
}
int open64(const char *path, int flags, ...) { return open(path, flags); }
int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return fd == device && fd >= 0 ? 0 : real(fd, request, argument);
}
int system(const char *command) { (void)command; return 0; }
"""


@pytest.fixture(scope="module")
def iodine(whole_lab):
    if not shutil.which("iodine", path="/usr/sbin:/usr/bin"):
        pytest.skip("iodine is not installed (Debian package iodine)")
    if not shutil.which("cc"):
        pytest.skip("no compiler for the stand-in of the TUN device")
    shim = whole_lab.folder / "shim.so"
    source = whole_lab.folder / "shim.c"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", shim, source, "-ldl"], check=True)
    return ["env", f"LD_PRELOAD={shim}", "iodine", "-f", "-P", "secret"]


@pytest.mark.parametrize("server", [[], [NAME_SERVER]], ids=["the-system's", "its-own"])
@pytest.mark.parametrize("kind", [[], ["-T", "NULL"], ["-T", "TXT"]], ids=["any-type", "NULL", "TXT"])
def test_iodine_finds_no_way_out(lab, iodine, server, kind):
    """The client speaks (the audit log has its questions), and nothing of it passes."""
    uplink = lab.capture()
    run = lab.exec(["timeout", "-s", "KILL", "12", *iodine, *kind, *server, "tunnel.denied.example"], **ALLOWED)
    assert run.status != 0, run
    asked = {name for name in run.audit.dns_denied() if name.endswith(".tunnel.denied.example")}
    assert asked, run
    assert not lab.dns_queries() and not uplink.packets()


def test_iodine_below_an_allowed_wildcard(lab, iodine):
    """A wildcard lets names out, that is what it says; the NULL records that iodine likes best are not among them."""
    run = lab.exec(["timeout", "-s", "KILL", "12", *iodine, "-T", "NULL", "-r", "tunnel.any.example"], allow=["*.any.example"])
    assert run.status != 0
    assert {event["dns.question.type"] for event in run.audit.where(event_action="dns-denied")} == {"NULL"}
    assert not re.findall(r"query\[(?:NULL|type=10)\]", "\n".join(lab._since("dns.log")))
