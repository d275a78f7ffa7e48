"""
The other side of scripts/run: a name server on 198.18.0.2 and two sites, allowed.example on 198.18.0.1 and denied.example
on 198.18.0.2, with certificates of a test authority made on the spot (FOLDER/ca.pem). FOLDER/ready appears at the end.

    demo-origins.py FOLDER        serve
    demo-origins.py --show LOG    print an audit log for people
"""
import http.server
import json
import pathlib
import socket
import socketserver
import ssl
import subprocess
import sys
import threading

SITES = {"allowed.example": "198.18.0.1", "denied.example": "198.18.0.2"}
NAME_SERVER = "198.18.0.2"


def make_certificates(folder):
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = ["-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-subj", "/CN=demo authority"]
    subprocess.run(["openssl", "req", "-x509", *key, *authority], check=True, capture_output=True)
    for name in SITES:
        subprocess.run(["openssl", "req", "-x509", *key, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                        "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem", "-subj", f"/CN={name}",
                        "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.headers['Host']} says hello\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class NameServer(socketserver.BaseRequestHandler):
    """Answers A questions about SITES, everything else with an empty answer."""

    def handle(self):
        query, connection = self.request
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1:at + 1 + length].decode("latin-1").lower())
            at += 1 + length
        question = query[12:at + 5]
        address = SITES.get(".".join(labels)) if question[-4:-2] == b"\0\1" else None
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address) if address else b""
        counts = b"\0\1" + (b"\0\1" if address else b"\0\0") + b"\0\0\0\0"
        connection.sendto(query[:2] + b"\x81\x80" + counts + question + answer, self.client_address)


def serve(folder):
    make_certificates(folder)
    servers = [socketserver.ThreadingUDPServer((NAME_SERVER, 53), NameServer)]
    for name, address in SITES.items():
        servers.append(http.server.ThreadingHTTPServer((address, 80), Site))
        secure = http.server.ThreadingHTTPServer((address, 443), Site)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        servers.append(secure)
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    (folder / "ready").touch()


def show(log):
    for line in open(log):
        event = json.loads(line)
        name = event.get("destination", {}).get("domain") or event.get("dns", {}).get("question", {}).get("name", "")
        place = event.get("destination", {})
        print(f"{event['event']['action']:15} {event['event'].get('reason', ''):12} {name:16} "
              f"{place.get('ip', '')} {place.get('port', '')}")


if __name__ == "__main__":
    show(sys.argv[2]) if sys.argv[1] == "--show" else serve(pathlib.Path(sys.argv[1]))
