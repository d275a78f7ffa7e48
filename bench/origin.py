"""
The origin: one nginx and one DNS server on the lab's "internet", a link away from the clients.

    ORIGIN            the one address
    NAME              resolves to it
    fresh_names()     any number of further names under it, each to be contacted once
"""
import subprocess

from lab import NAME_SERVER
from origins import answers, launch

ORIGIN = "198.18.1.1"
NAME = "allowed.example"
FRESH = "fresh.example"
BODY_SIZE = 1024  # https_client.c insists on it


def fresh_names():
    number = 0
    while True:
        number += 1
        yield f"n{number}.{FRESH}"


def _make_certificate(folder):
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = ["-subj", "/CN=Sallyport bench authority", "-addext", "keyUsage=critical,keyCertSign",
                 "-keyout", folder / "ca.key", "-out", folder / "ca.pem"]
    leaf = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-subj", f"/CN={NAME}",
            "-addext", f"subjectAltName=DNS:{NAME},DNS:*.{FRESH}", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", folder / "leaf.key", "-out", folder / "leaf.pem"]
    for arguments in (authority, leaf):
        subprocess.run(["openssl", "req", "-x509", *key, *arguments], check=True, capture_output=True)


def _start_nginx(lab):
    folder = lab.folder
    (folder / "www").mkdir()
    (folder / "www/index.html").write_bytes(b"x" * BODY_SIZE)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_timeout 1h; {temporary}
    server {{
        listen {ORIGIN}:443 ssl backlog=4096;
        ssl_protocols TLSv1.3; ssl_session_tickets off;
        ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key;
        root {folder}/www;
    }}
}}
""")
    launch(lab, ["nginx", "-c", folder / "nginx.conf", "-p", folder],
           answers(lab, "curl", "-s", "--cacert", folder / "ca.pem", "--resolve", f"{NAME}:443:{ORIGIN}", f"https://{NAME}/"))


def _start_dnsmasq(lab):
    lab.internet.run("ip", "addr", "add", NAME_SERVER, "dev", "lo")
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(label)]) + label.encode() for label in NAME.split(".")) + b"\0\0\1\0\1"
    probe = ("import socket\ns = socket.socket(2, 2)\ns.settimeout(0.5)\n"
             f"s.connect(({NAME_SERVER!r}, 53))\ns.send({query!r})\ns.recv(512)")
    launch(lab, ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv",
                 "--no-hosts", "--bind-interfaces", f"--listen-address={NAME_SERVER}", "--local-ttl=3600",
                 f"--address=/{NAME}/{ORIGIN}", f"--address=/{FRESH}/{ORIGIN}"],
           lambda: lab.host.run("/usr/bin/python3", "-c", probe, check=False, stderr=subprocess.DEVNULL).returncode == 0)


def start(lab):
    _make_certificate(lab.folder)
    _start_dnsmasq(lab)
    _start_nginx(lab)
