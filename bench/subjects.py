"""
What is compared. Each has .name, .clients (the namespace its clients stand in), .pid (the process whose tree's CPU and memory
count; None for the kernel) and .does(work).

Every peer is set up as its manual has it for this job, with one worker, and without an access log: Sallyport writes its
audit log in all of it (two events a flow), the peers write nothing. Where that is not like for like it is in their favour.
"""
import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path

import daemon
from lab import NAME_SERVER, wait_until
from load_lab import NAMES, PROXY_PORT, SERVERS, pinned, resolve_all, tune

IP_TRANSPARENT = 19  # linux/in.h
TLS_KINDS = [kind for kind in SERVERS if kind != "http"]
TLS_WORKS = {"flows", "latency", "refused", "echo", "down", "up", "hold"}


class Kernel:
    """Packets forwarded, nothing looked at."""

    name = "kernel forwarding"
    pid = None

    def __init__(self, lab):
        _, self.clients = lab.way(forwards=True)

    def does(self, work):
        return work != "refused" and work != "hold"

    def close(self):
        pass


class _PinnedGateway(daemon.Gateway):
    def command(self):
        return pinned(self.lab.subject_cpu, super().command())

    def write_policy(self, policy):
        self.config.write_text(
            f"version: 1\ngateway: {{resolvers: [{NAME_SERVER}], limits: {{flows_per_container: 16000, flows_total: 16000, flows_per_second: 1000000}}}}\n"
            f"destinations: {{allow: [198.18.0.0/15]}}\n{policy}")


class Sallyport:
    """The daemon, one worker, audit log on, names bound to addresses through its DNS; its clients are an enrolled container."""

    name = "Sallyport"

    def __init__(self, lab):
        rules = "\n".join(f"      - {NAMES[kind]}" for kind in SERVERS)
        more = self.more_policy(Path(tempfile.mkdtemp(dir=lab.folder)))
        self.gateway = _PinnedGateway(lab, f"policies:\n  bench:\n    allow:\n{rules}\n{more}default: bench\n")
        tune(lab.host)
        self.gateway.start()
        self.clients = self.sealed()
        resolve_all(self.clients)
        self.pid = self.gateway.process.pid
        lab.sealed = self.sealed

    def more_policy(self, folder):
        """More lines of the policy `bench`; files that they name go into the folder."""
        return ""

    def sealed(self):
        """One more namespace that is enrolled."""
        made = self.gateway.container()
        tune(made)
        return made

    def does(self, work):
        return True

    def close(self):
        self.gateway.close()


class _Proxy:
    """A peer: a program with a configuration file, in the gateway namespace `self.gateway`."""

    name, works = None, TLS_WORKS
    reference = False  # only beside, never the best peer

    def __init__(self, lab):
        self.lab = lab
        self.folder = lab.folder / type(self).__name__.lower()
        self.folder.mkdir()
        self.listeners = []
        self.stand()
        self.config = self.folder / "config"
        self.config.write_text(self.configuration())
        complaints = self.folder / "stderr"
        with open(complaints, "w") as file:
            self.process = self.gateway.spawn(
                pinned(lab.subject_cpu, self.command()), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                pass_fds=[one.fileno() for one in self.listeners], env={**os.environ, **self.environment()})
        self.pid = self.process.pid
        for one in self.listeners:
            one.close()
        wait_until(lambda: self.process.poll() is not None or self.clients.call(self._answers), self.name)
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} did not start: {complaints.read_text()}")

    def stand(self):
        """Where Sallyport stands: listening in a closed namespace, and dialling from the gateway's; but reached by REDIRECT."""
        self.gateway, self.clients = self.lab.host, self.lab.closed()
        self.clients.run("nft", "-f", "-", input=_redirection())
        self.listeners = [self.clients.call(lambda p=port: _listener(p)) for port in PROXY_PORT.values()]

    def environment(self):
        return {}

    @staticmethod
    def _answers():
        """A refused name is refused: it has begun to work."""
        with socket.socket() as probe:
            probe.settimeout(1)
            try:
                probe.connect((SERVERS["flows"], 443))
                probe.sendall(b"none of TLS\n" * 50)
                return probe.recv(1) == b""
            except ConnectionResetError:
                return True
            except OSError:
                return False

    def does(self, work):
        return work in self.works

    def close(self):
        """Asked, not killed: nginx' worker outlives a master that is killed."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _listener(port, transparent=False):
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    if transparent:
        made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(8192)
    return made


def _redirection():
    """What their manuals say: REDIRECT, and no more rules than that."""
    rules = "".join(f"ip daddr != 127.0.0.0/8 tcp dport {port} redirect to :{own}; " for port, own in PROXY_PORT.items())
    return f"flush ruleset; table ip bench {{ chain out {{ type nat hook output priority -100; {rules}}}; }}"


def _captured(ruleset):
    """Sallyport's own ruleset, but for whom the captured connections are led to."""
    lines = ["flush ruleset"]
    for line in ruleset.splitlines():
        if match := re.fullmatch(r"(\s*meta nfproto ipv4 tcp dport )@ports( .*tproxy ip to 127.0.0.1:)\d+( .*accept)", line):
            lines += [f"{match[1]}{port}{match[2]}{own}{match[3]}" for port, own in PROXY_PORT.items()]
        else:
            lines.append(line)
    if len(lines) != len(ruleset.splitlines()) + len(PROXY_PORT):
        raise RuntimeError(f"not the ruleset that was expected:\n{ruleset}")
    return "\n".join(lines) + "\n"


class HAProxy(_Proxy):
    """TCP mode with SNI inspection, splice with large pipes for bulk; HTTP mode on port 80. One thread, no DNS: names lead to fixed addresses."""

    name, works = "HAProxy", TLS_WORKS | {"http"}

    def command(self):
        return ["haproxy", "-db", "-f", self.config]

    def configuration(self):
        always = "    option splice-request\n    option splice-response\n"  # left to itself it splices bulk only now and then
        servers = "\n".join(f"backend {NAMES[kind]}\n    mode tcp\n{always if kind in ('down', 'up') else ''}"
                            f"    server s {SERVERS[kind]}:443" for kind in TLS_KINDS)
        known = " ".join(NAMES[kind] for kind in TLS_KINDS)
        return f"""global
    nbthread 1
    maxconn 6000
    maxpipes 64
    tune.pipesize 1048576
defaults
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    backlog 8192
    option splice-auto
frontend tls
    mode tcp
    bind fd@{self.listeners[0].fileno()}
    tcp-request inspect-delay 10s
    tcp-request content reject unless {{ req.ssl_sni -i {known} }}
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend %[req.ssl_sni,lower]
{servers}
frontend plain
    mode http
    bind fd@{self.listeners[1].fileno()}
    http-request deny unless {{ hdr(host) -i {NAMES["http"]} }}
    default_backend plain
backend plain
    mode http
    http-reuse safe
    server s {SERVERS["http"]}:80
"""


class Nginx(_Proxy):
    """The stream module with ssl_preread; the http module on port 80, with kept upstream connections. One worker."""

    name, works = "nginx", TLS_WORKS | {"http"}

    def command(self):
        return ["nginx", "-c", self.config, "-p", self.folder]

    def environment(self):
        """Listening sockets are taken over as in an upgrade of the program."""
        return {"NGINX": "".join(f"{one.fileno()};" for one in self.listeners)}

    def configuration(self):
        table = " ".join(f"{NAMES[kind]} {SERVERS[kind]}:443;" for kind in TLS_KINDS)
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind}; "
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        modules = "/usr/lib/nginx/modules/ngx_stream_module.so"
        load = f"load_module {modules};" if os.path.exists(modules) else ""
        return f"""{load}
user root; worker_processes 1; worker_rlimit_nofile 20000; daemon off; pid {self.folder}/pid; error_log stderr crit;
events {{ worker_connections 16000; multi_accept on; }}
stream {{
    map $ssl_preread_server_name $origin {{ {table} }}
    server {{
        listen 127.0.0.1:{PROXY_PORT[443]} backlog=8192; tcp_nodelay on; ssl_preread on; proxy_timeout 1h; access_log off;
        proxy_pass $origin;
    }}
}}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 1h; {temporary}
    upstream plain {{ server {SERVERS["http"]}:80; keepalive 128; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{PROXY_PORT[80]} default_server backlog=8192; return 403; }}
    server {{
        listen 127.0.0.1:{PROXY_PORT[80]}; server_name {NAMES["http"]};
        location / {{ proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection "";
                      proxy_set_header Host $host; }}
    }}
}}
"""


class CapturedNginx(Nginx):
    """nginx under Sallyport's own ruleset and with its kind of sockets: tells what is the capture's merit, and is no peer."""

    name, reference = "nginx on our capture", True

    def stand(self):
        self.gateway, self.clients = self.lab.host, self.lab.sealed()
        self.clients.run("nft", "-f", "-", input=_captured(self.clients.ruleset()))
        self.listeners = [self.clients.call(lambda p=port: _listener(p, True)) for port in PROXY_PORT.values()]


class Sniproxy(_Proxy):
    """TLS by name; one process. It takes no listening socket from others, so its clients reach it by a link."""

    name = "sniproxy"

    def stand(self):
        self.gateway, self.clients = self.lab.way()
        self.lab.redirect(self.gateway)

    @staticmethod
    def _answers():
        """Its own socket: that it listens is enough."""
        with socket.socket() as probe:
            return probe.connect_ex((SERVERS["flows"], 443)) == 0

    def command(self):
        return ["sniproxy", "-f", "-n", "20000", "-c", self.config]

    def configuration(self):
        table = "".join(f"    {NAMES[kind].replace('.', '[.]')} {SERVERS[kind]}:443\n" for kind in TLS_KINDS)
        return f"""user root
error_log {{ filename {self.folder}/errors
    priority emerg }}
listener 0.0.0.0:{PROXY_PORT[443]} {{
    proto tls
    table names
    access_log {{ filename /dev/null }}
}}
table names {{
{table}}}
"""


ALL = (Sallyport, HAProxy, Nginx, CapturedNginx, Sniproxy, Kernel)
