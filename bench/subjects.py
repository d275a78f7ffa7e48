"""
What is compared. Each has .name, .clients (the namespace its clients stand in), .pid (the process whose tree's CPU and memory
count; None for the kernel) and .does(work).

Every peer is set up as its manual has it for this job, with one worker, and without an access log: Sallyport writes its
audit log in all of it (two events a flow), the peers write nothing. Where that is not like for like it is in their favour.
"""
import os
import socket
import subprocess

import daemon
from lab import NAME_SERVER, wait_until
from load_lab import NAMES, PROXY_PORT, SERVERS, pinned, resolve_all, tune

TLS_KINDS = [kind for kind in SERVERS if kind != "http"]
TLS_WORKS = {"flows", "refused", "echo", "down", "up", "hold"}


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
            f"version: 1\ngateway: {{resolvers: [{NAME_SERVER}], limits: {{flows_per_container: 16000, flows_total: 16000}}}}\n"
            f"destinations: {{allow: [198.18.0.0/15]}}\n{policy}")


class Sallyport:
    """The daemon with one enrolled container, one worker, audit log on, names bound to addresses through its DNS."""

    name = "Sallyport"

    def __init__(self, lab):
        rules = "\n".join(f"      - {NAMES[kind]}" for kind in SERVERS)
        self.gateway = _PinnedGateway(lab, f"policies:\n  bench:\n    allow:\n{rules}\ndefault: bench\n")
        tune(lab.host)
        self.gateway.start()
        self.clients = self.gateway.container(enroll=False)
        tune(self.clients)
        self.gateway.told("enroll", "--pid", self.clients.pid, "--id", "bench")
        resolve_all(self.clients)
        self.pid = self.gateway.process.pid

    def does(self, work):
        return True

    def close(self):
        self.gateway.close()


class _Proxy:
    """A peer: a program with a configuration file in a gateway namespace of its own."""

    name, works = None, TLS_WORKS

    def __init__(self, lab):
        self.folder = lab.folder / self.name.lower().replace(" ", "-")
        self.folder.mkdir()
        self.config = self.folder / "config"
        self.config.write_text(self.configuration())
        self.gateway, self.clients = lab.way()
        lab.redirect(self.gateway)
        self.complaints = self.folder / "stderr"
        with open(self.complaints, "w") as complaints:
            self.process = self.gateway.spawn(pinned(lab.subject_cpu, self.command()), stdin=subprocess.DEVNULL,
                                              stdout=complaints, stderr=complaints)
        self.pid = self.process.pid
        wait_until(lambda: self.process.poll() is not None or self.gateway.call(self._listens), self.name)
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} did not start: {self.complaints.read_text()}")

    @staticmethod
    def _listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", PROXY_PORT[443])) == 0

    def does(self, work):
        return work in self.works

    def close(self):
        self.process.kill()
        self.process.wait()


class HAProxy(_Proxy):
    """TCP mode with SNI inspection and splice; HTTP mode on port 80. One thread, no DNS: names lead to fixed addresses."""

    name, works = "HAProxy", TLS_WORKS | {"http"}

    def command(self):
        return ["haproxy", "-db", "-f", self.config]

    def configuration(self):
        servers = "\n".join(f"backend {NAMES[kind]}\n    mode tcp\n    server s {SERVERS[kind]}:443" for kind in TLS_KINDS)
        known = " ".join(NAMES[kind] for kind in TLS_KINDS)
        return f"""global
    nbthread 1
    maxconn 6000
    maxpipes 64
defaults
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    backlog 8192
    option splice-auto
frontend tls
    mode tcp
    bind :{PROXY_PORT[443]}
    tcp-request inspect-delay 10s
    tcp-request content reject unless {{ req.ssl_sni -i {known} }}
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend %[req.ssl_sni,lower]
{servers}
frontend plain
    mode http
    bind :{PROXY_PORT[80]}
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
        listen {PROXY_PORT[443]} backlog=8192; tcp_nodelay on; ssl_preread on; proxy_timeout 1h; access_log off;
        proxy_pass $origin;
    }}
}}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 1h; {temporary}
    upstream plain {{ server {SERVERS["http"]}:80; keepalive 128; keepalive_requests 100000000; }}
    server {{ listen {PROXY_PORT[80]} default_server backlog=8192; return 403; }}
    server {{
        listen {PROXY_PORT[80]}; server_name {NAMES["http"]};
        location / {{ proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection "";
                      proxy_set_header Host $host; }}
    }}
}}
"""


class Sniproxy(_Proxy):
    """TLS by name; one process."""

    name = "sniproxy"

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


ALL = (Sallyport, HAProxy, Nginx, Sniproxy, Kernel)
