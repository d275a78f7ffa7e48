"""
The origins on the lab's "internet": real servers from Debian, every name with a certificate of its own.

    nginx      80, 443 (TLS 1.2 and 1.3, HTTP/2), 8443; static and big files, PUT, git over fcgiwrap, WebSocket upgrade
    dnsmasq    198.18.0.53 and 2001:db8:5a11::53: exactly the names below, with a log of what was asked
    sshd       ssh.example:22
    servers.py small servers whose connections end in special ways
"""
import os
import shutil
import subprocess

from lab import HERE, NAME_SERVER, wait_until

# name: (a, b) → 198.18.a.b and 2001:db8:5a11::a:b
WEB = {
    "allowed.example": (1, 1),
    "www.allowed.example": (1, 2),
    "denied.example": (2, 1),
    "cdn-denied.example": (1, 1),  # on the address of an allowed name
    "wild.example": (3, 1),
    "sub.wild.example": (3, 2),
    "a.b.wild.example": (3, 3),
    "notallowed.example": (2, 2),
    "xn--mnchen-3ya.example": (2, 3),
    "big.example": (5, 1),
    "git.example": (5, 2),
    "ws.example": (5, 3),
    "npm.example": (5, 4),         # registries.py
    "pypi.example": (5, 5),
    "files.example": (5, 6),
    "deb.example": (5, 7),
    "tls12.example": (6, 2),
    "tls13.example": (6, 3),
    "expired.example": (6, 4),     # with certificates that prove nothing
    "self-signed.example": (6, 5),
    "stranger.example": (6, 6),
    "other.example": (9, 9),       # the server behind a claimed address
}
OTHER = {"ssh.example": (4, 1), "end.example": (7, 1), "name-server.example": (0, 53)}
NAMES = {**WEB, **OTHER}

# What DNS says beside that.
ODD_ANSWERS = {
    "v4only.example": ["198.18.1.4"],
    "v6only.example": ["2001:db8:5a11::1:6"],
    "half-dead.example": ["198.18.66.1", "198.18.1.5"],   # nothing answers at the first (see _blackhole)
    "loopback.example": ["127.0.0.1", "::1"],
    "private.example": ["10.1.2.3"],
    "metadata.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:198.18.1.1"],
    "nat64.example": ["64:ff9b::a01:203"],
    "uplink.example": ["198.19.0.2"],                     # the gateway's own machine
    "nowhere.example": ["198.18.66.1"],
    "many.example": [f"198.18.8.{n}" for n in range(1, 60)],  # too long for a UDP answer of 512 bytes
    "crowd.example": [f"2001:db8:5a11::8:{n:x}" for n in range(1, 65)],  # too long for a packet of an Ethernet
}
# HTTPS records, as RDATA: priority 1, target ".", alpn h3 and h2, a hint, ech; the second hints at a private place.
SERVICES = {
    "service.example": "0001 00 0001 0006 02 6833 02 6832 0004 0004 c6120101 0005 0003 fe0d00",
    "service-private.example": "0001 00 0001 0003 02 6832 0004 0004 0a010203",
}
BLACKHOLE = "198.18.66.0/24"
BIG_FILE = 1 << 30


def address(name, family=4):
    a, b = NAMES[name]
    return f"198.18.{a}.{b}" if family == 4 else f"2001:db8:5a11::{a:x}:{b:x}"


def launch(lab, argv, ready):
    """Starts a server in the internet and waits until `ready()`; what it complained about is in the error."""
    program = os.path.basename(argv[0])
    complaints = lab.folder / f"{program}.err"
    process = lab.internet.spawn(argv, stdout=subprocess.DEVNULL, stderr=open(complaints, "w"))
    try:
        wait_until(lambda: ready() or process.poll() is not None, program)
    except TimeoutError:
        process.kill()
    assert process.poll() is None, f"{program} did not start: {complaints.read_text()}"


def answers(lab, *probe):
    return lambda: lab.host.run(*probe, check=False, stdout=subprocess.DEVNULL).returncode == 0


def _openssl(*argv):
    subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True)


def make_certificates(folder):
    """A test authority (ca.pem) and a leaf for every web name, made anew in each run."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    _openssl("req", "-x509", *key, "-subj", "/CN=Sallyport test authority", "-addext", "keyUsage=critical,keyCertSign",
             "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    for name in [*WEB, *ODD_ANSWERS]:
        _openssl("req", "-x509", *key, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-subj", f"/CN={name}",
                 "-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE",
                 "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    make_bad_certificates(folder, key)


def make_bad_certificates(folder, key):
    """Of yesterday, of the leaf itself, of an authority that nobody knows."""
    def request(name):
        _openssl("req", *key[:4], "-nodes", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / "csr.pem")
        (folder / "extensions").write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=critical,CA:FALSE\n")
        return ["-in", folder / "csr.pem", "-extfile", folder / "extensions", "-out", folder / f"{name}.pem"]

    _openssl("x509", "-req", *request("expired.example"), "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-days", "-1")
    _openssl("x509", "-req", *request("self-signed.example"), "-signkey", folder / "self-signed.example.key", "-days", "2")
    _openssl("req", "-x509", *key, "-subj", "/CN=Stranger", "-addext", "keyUsage=critical,keyCertSign",
             "-keyout", folder / "stranger.key", "-out", folder / "stranger.pem")
    _openssl("x509", "-req", *request("stranger.example"), "-CA", folder / "stranger.pem", "-CAkey", folder / "stranger.key",
             "-days", "2")


def _nginx_server(folder, name, listen, more=""):
    return f"""
    server {{
        server_name {name};
        {listen}
        ssl_certificate {folder}/{name}.pem;
        ssl_certificate_key {folder}/{name}.key;
        {more}
        location / {{ default_type text/plain; return 200 "$host at $server_addr by $server_protocol\\n"; }}
        location /health {{ access_log off; return 204; }}
        location /missing {{ return 404; }}
        location /small {{ client_max_body_size 1k; root {folder}/www; dav_methods PUT; }}
        location /ws {{
            proxy_pass http://127.0.0.1:9001;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout 1h;
        }}
        location /files/ {{ root {folder}/www; dav_methods PUT; client_max_body_size 0; client_body_temp_path {folder}/tmp; }}
        location /git/ {{
            client_max_body_size 0;
            fastcgi_pass unix:{folder}/git.sock;
            fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
            fastcgi_param GIT_PROJECT_ROOT {folder};
            fastcgi_param GIT_HTTP_EXPORT_ALL 1;
            fastcgi_param PATH_INFO $uri;
            fastcgi_param REMOTE_USER tester;
            include /etc/nginx/fastcgi_params;
        }}
    }}"""


def start_nginx(lab):
    folder = lab.folder
    for made in ("www/files", "www/small", "tmp"):
        (folder / made).mkdir(parents=True)
    any_address = "\n        ".join(
        f"listen {host}:{port};" for host in ("0.0.0.0", "[::]")[:len(lab.families())]
        for port in ("80", "443 ssl http2", "8443 ssl http2"))
    servers = []
    for name in [*WEB, *ODD_ANSWERS]:
        listen, more = any_address, ""
        if name in ("tls12.example", "tls13.example", "other.example"):  # settings that nginx keeps by address
            listen = "".join(f"listen {host}:443 ssl http2; listen {host}:80; " for host in
                             [address(name), f"[{address(name, 6)}]"][:len(lab.families())])
            more = {"tls12.example": "ssl_protocols TLSv1.2;", "tls13.example": "ssl_protocols TLSv1.3;"}.get(name, "")
        servers.append(_nginx_server(folder, name, listen, more))
    config = folder / "nginx.conf"
    config.write_text(f"""
user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 2048; }}
http {{
    server_names_hash_bucket_size 128;
    ssl_protocols TLSv1.2 TLSv1.3;
    log_format story "$request_method $scheme://$host$request_uri $status $server_addr $server_protocol";
    access_log {folder}/access.log story;
    client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp; fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
    {"".join(servers)}
}}
""")
    (folder / "access.log").touch()
    launch(lab, ["nginx", "-c", config, "-p", folder], answers(lab, "curl", "-s", "http://198.18.1.1/health"))


def start_dnsmasq(lab):
    records = [f"--host-record={name},{address(name)}" + (f",{address(name, 6)}" if lab.ipv6 else "") for name in NAMES]
    records += [f"--host-record={name},{one}" for name, answers in ODD_ANSWERS.items() for one in answers]
    records += ["--host-record=short-lived.example,198.18.1.1,1", "--cname=alias.example,allowed.example"]
    records += [f"--dns-rr={name},65,{rdata.replace(' ', '')}" for name, rdata in SERVICES.items()]
    records += ["--host-record=zero.example,198.18.1.1,0", "--address=/any.example/198.18.1.1", "--txt-record=allowed.example,a text", "--mx-host=allowed.example,mail.example,10"]
    log = lab.folder / "dns.log"
    log.touch()
    for host in (NAME_SERVER, "2001:db8:5a11::53")[:len(lab.families())]:  # dnsmasq wants an interface's own address
        lab.internet.run("ip", "addr", "add", host, "dev", "lo")
    launch(lab, [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv", "--no-hosts",
        "--bind-interfaces", f"--listen-address={NAME_SERVER}",
        *(["--listen-address=2001:db8:5a11::53"] if lab.ipv6 else []),
        "--log-queries", f"--log-facility={log}", "--local=/example/", "--local-ttl=60", *records],
        answers(lab, "dig", "+tries=1", "+time=1", f"@{NAME_SERVER}", "name-server.example"))


def start_sshd(lab):
    """Logs in whoever runs the tests, by a key made for this run."""
    folder = lab.folder
    for name in ("ssh_host_key", "ssh_user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "ssh_user_key.pub", folder / "authorized_keys")
    host_key = (folder / "ssh_host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"ssh.example {' '.join(host_key)}\n")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    listen = "\n".join(f"ListenAddress {host}" for host in
                       [address("ssh.example"), f"[{address('ssh.example', 6)}]:22"][:len(lab.families())])
    (folder / "sshd_config").write_text(f"""{listen}
HostKey {folder}/ssh_host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
""")
    launch(lab, ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"],
           lambda: "Server listening" in (folder / "sshd.err").read_text())


def start_git(lab):
    """A repository at https://git.example/git/story.git, to clone from and to push to."""
    folder = lab.folder
    (folder / "git").mkdir()
    quiet = {"check": True, "capture_output": True, "env": {**os.environ, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}}
    author = ["-c", "user.name=Tester", "-c", "user.email=tester@allowed.example", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *author, "init", "--bare", folder / "git/story.git"], **quiet)
    subprocess.run(["git", "-C", folder / "git/story.git", "config", "http.receivepack", "true"], **quiet)
    subprocess.run(["git", *author, "init", folder / "story"], **quiet)
    (folder / "story/README").write_text("Once upon a time there was a gate.\n" * 2000)
    for step in (["add", "README"], ["commit", "-m", "Begin"], ["push", folder / "git/story.git", "main"]):
        subprocess.run(["git", "-C", folder / "story", *author, *step], **quiet)
    launch(lab, ["fcgiwrap", "-c", "2", "-s", f"unix:{folder}/git.sock"], (folder / "git.sock").exists)


def start_servers(lab):
    addresses = [address("end.example", family) for family in lab.families()]
    log = lab.folder / "servers.log"
    launch(lab, ["/usr/bin/python3", HERE / "servers.py", log, *addresses], log.exists)


def start_all(lab):
    lab.internet.run("ip", "route", "add", "blackhole", BLACKHOLE)
    make_certificates(lab.folder)
    start_dnsmasq(lab)
    start_servers(lab)
    start_git(lab)
    start_nginx(lab)
    start_sshd(lab)


def make_big_file(lab):
    """1 GiB of noise at https://big.example/files/noise, where every displaced byte shows; returns its sha256."""
    noise = lab.folder / "www/files/noise"
    command = f"openssl enc -aes-128-ctr -K 00 -iv 01 -in /dev/zero 2>/dev/null | head -c {BIG_FILE} > {noise}"
    subprocess.run(["sh", "-c", command], check=True, stderr=subprocess.DEVNULL)
    return sha256(noise)


def sha256(path):
    return subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
