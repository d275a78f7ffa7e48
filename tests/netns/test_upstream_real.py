"""gateway.upstream with the proxies that sites run: tinyproxy and Squid (CONNECT), microsocks and Dante (SOCKS5)."""
import itertools
import shutil
import socket
import subprocess

import pytest

from lab import wait_until
from origins import address
from test_upstream import PLACE, policy
from test_web import CURL

ports = itertools.count(3500)


def _tinyproxy(folder, place, port):
    config = folder / f"tinyproxy-{port}.conf"
    config.write_text(f"Port {port}\nListen {place}\nAllow 0.0.0.0/0\nAllow ::/0\nMaxClients 100\nLogLevel Critical\n"
                      "ConnectPort 80\nConnectPort 81\nConnectPort 443\nConnectPort 7002\n")
    return "http", ["tinyproxy", "-d", "-c", config]


def _squid(folder, place, port):
    home = folder / f"squid-{port}"
    home.mkdir()
    shutil.chown(home, "proxy", "proxy")
    config = folder / f"squid-{port}.conf"
    listen = f"[{place}]:{port}" if ":" in place else f"{place}:{port}"
    config.write_text(f"http_port {listen}\nacl all src all\nhttp_access allow all\ncache deny all\naccess_log none\n"
                      f"cache_log {home}/cache.log\npid_filename none\ncoredump_dir {home}\nvisible_hostname lab.example\n"
                      "shutdown_lifetime 0 seconds\nnetdb_filename none\nmax_filedescriptors 1024\n")
    return "http", ["squid", "-N", "-f", config]


def _microsocks(folder, place, port):
    return "socks5", ["microsocks", "-i", place, "-p", port]


def _danted(folder, place, port):
    config = folder / f"danted-{port}.conf"
    config.write_text(f"logoutput: /dev/null\ninternal: {place} port = {port}\nexternal: uplink\nsocksmethod: none\nclientmethod: none\n"
                      "user.privileged: root\nuser.unprivileged: nobody\n"
                      "client pass { from: 0/0 to: 0/0 }\nclient pass { from: ::/0 to: ::/0 }\n"
                      "socks pass { from: 0/0 to: 0/0 }\nsocks pass { from: ::/0 to: ::/0 }\n")
    return "socks5", ["danted", "-f", config, "-p", folder / f"danted-{port}.pid"]


KINDS = {"tinyproxy": _tinyproxy, "squid": _squid, "microsocks": _microsocks, "danted": _danted}


class Proxy:
    def __init__(self, lab, program, family):
        self.lab, self.place, self.port = lab, PLACE[family], next(ports)
        self.kind, self.argv = KINDS[program](lab.folder, self.place, self.port)
        self.where = f"{self.kind}://" + (f"[{self.place}]:{self.port}" if family == 6 else f"{self.place}:{self.port}")
        self.start()

    def start(self):
        said = self.lab.folder / f"proxy-{self.port}.err"
        with open(said, "w") as file:
            self.process = self.lab.internet.spawn_itself(self.argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                                          start_new_session=True)
        wait_until(lambda: self.process.poll() is not None or self.lab.host.call(self._listens), self.argv[0], 20)
        assert self.process.poll() is None, said.read_text()

    def _listens(self):
        with socket.socket(socket.AF_INET6 if ":" in self.place else socket.AF_INET) as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.place, self.port)) == 0

    def stop(self):
        """With its children: it leads a session of its own."""
        subprocess.run(["pkill", "-KILL", "-s", str(self.process.pid)], check=False)
        self.process.wait()


@pytest.fixture(params=KINDS)
def program(request):
    if not shutil.which(request.param, path="/usr/sbin:/usr/bin:/sbin:/bin"):
        pytest.skip(f"{request.param} is not installed (scripts/install-deps test)")
    return request.param


@pytest.fixture
def proxy(lab):
    started = []

    def start(program, family=4):
        started.append(Proxy(lab, program, family))
        return started[-1]
    yield start
    for one in started:
        one.stop()


@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
def test_flows_leave_through_it_and_nothing_else(lab, proxy, program, family, scheme, port):
    site = proxy(program, family)
    uplink = lab.capture()
    run = lab.exec([*CURL, "-4", f"{scheme}://allowed.example/"], config=policy(lab, site.where)).ok()
    assert run.out.startswith(f"allowed.example at {address('allowed.example')}")
    left = {(packet.destination, packet.dport) for packet in uplink.packets()
            if packet.protocol == "tcp" and packet.source in ("198.19.0.2", "2001:db8:5a1f::2")}
    assert left == {(site.place, site.port)}
    end = run.audit.ended("allowed.example")[0]
    assert end["destination.ip"] == address("allowed.example") and end["sallyport.binding"] == "dns"


def test_an_origin_of_ipv6(lab, proxy, program):
    if not lab.ipv6:
        pytest.skip("this kernel has no IPv6")
    site = proxy(program)
    run = lab.exec([*CURL, "-6", "https://allowed.example/"], config=policy(lab, site.where)).ok()
    assert run.out.startswith(f"allowed.example at {address('allowed.example', 6)}")


def test_a_server_that_speaks_first(lab, proxy, program):
    site = proxy(program)
    story = "import socket\n" \
            "s = socket.create_connection((socket.gethostbyname('end.example'), 7002)); f = s.makefile('rwb', 0)\n" \
            "print(f.readline()); f.write(b'echo me\\n'); print(f.readline())"
    run = lab.exec(["python3", "-c", story], config=policy(lab, site.where, "\"tcp://end.example:7002\""))
    assert run.ok().out.split("\n")[:2] == ["b'welcome\\n'", "b'echo me\\n'"]


def test_an_origin_that_nobody_serves(lab, proxy, program):
    """The proxy says no, in its own words: told, and closed."""
    site = proxy(program)
    run = lab.exec([*CURL, "-i", "-4", "http://ssh.example:81/"], config=policy(lab, site.where, "\"http://ssh.example:81\""))
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"connect_failed"}, run
    assert run.audit.denied()[0]["sallyport.detail"] == "the site's proxy refuses"


VISITS = """import subprocess, sys
for line in sys.stdin:
    done = subprocess.run(['curl', '-4', '-s', '-o', '/dev/null', '-w', '%{http_code}', 'http://allowed.example/'], capture_output=True, text=True)
    print(done.stdout, flush=True)"""


def test_down_it_is_closed_and_up_it_is_open_again(lab, proxy, program):
    site = proxy(program)
    run = lab.start(["python3", "-c", VISITS], config=policy(lab, site.where))
    uplink = lab.capture()

    def visit():
        run.say("go\n")
        return run.line()
    assert visit() == "200"
    site.stop()
    assert visit() == "502"
    site.start()
    assert visit() == "200"
    run.process.stdin.close()
    run.process.stdin = None
    done = run.wait().ok()
    [denial] = done.audit.denied()
    assert denial["event.reason"] == "connect_failed" and denial["sallyport.detail"] == "the site's proxy cannot be reached"
    assert not [packet for packet in uplink.towards(address("allowed.example")) if packet.source == "198.19.0.2"]
