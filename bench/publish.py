"""
What a published port costs, beside Docker's.

    publish.py [--build DIR] [--rounds N] [--seconds N]

A web server (nginx) in a sealed container whose port is published, and the same server in a container with a link, published by
docker-proxy, the program that Docker starts for -p. Asked from the host by wrk:

    new       a connection a request, 16 at a time: requests a second; the proxy's processor time for each
    kept      one request after the other on kept-alive connections, 16 of them
    bulk      100 MB down one connection: bytes a second, and processor time for a gigabyte

"direct" is the server asked from inside its own namespace, without anybody between. Rounds alternate; medians, and the ratio to
docker-proxy in the same run. Writes results/publish.md. Needs root, for namespaces of its own; leaves nothing else behind.
"""
import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
from daemon import Container, Gateway  # noqa: E402
from fairness import cpu_seconds  # noqa: E402

BULK = 100 << 20
NGINX = """
daemon off; worker_processes 1; error_log stderr crit; pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 80 backlog=4096; root {folder}; }} }}
"""


class Server:
    """nginx in a namespace."""

    def __init__(self, box, folder):
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "small").write_bytes(b"x" * 64)
        (folder / "big").write_bytes(bytes(BULK))
        (folder / "conf").write_text(NGINX.format(folder=folder))
        self.box = box
        self.process = box.spawn(["nginx", "-c", folder / "conf", "-p", folder])
        laboratory.wait_until(lambda: ":80 " in box.output("ss", "-Htln"), "nginx")


class Subject:
    def __init__(self, name, asker, port, pids):
        self.name, self.asker, self.port, self.pids = name, asker, port, pids
        self.got = {}

    def cpu(self):
        return sum(cpu_seconds(pid) for pid in self.pids)

    def add(self, key, value):
        self.got.setdefault(key, []).append(value)

    def wrk(self, key, seconds, *options):
        before = self.cpu()
        told = self.asker.output("wrk", "-t", "1", "-c", "16", "-d", str(seconds), *options, f"http://127.0.0.1:{self.port}/small",
                                 timeout=seconds + 30)
        if "Socket errors" in told or "Non-2xx" in told:
            sys.exit(f"{self.name}: {told}")
        count = int(re.search(r"(\d+) requests in", told)[1])
        self.add(key, float(re.search(r"Requests/sec: +([\d.]+)", told)[1]))
        self.add(f"{key} cpu", (self.cpu() - before) / count * 1e6)

    def bulk(self):
        before, start = self.cpu(), time.monotonic()
        self.asker.run("curl", "-sSf", "-o", "/dev/null", f"http://127.0.0.1:{self.port}/big", timeout=60)
        self.add("bulk", BULK / (time.monotonic() - start) / 1e6)
        self.add("bulk cpu", (self.cpu() - before) / BULK * 1e9)

    def median(self, key):
        return statistics.median(self.got[key])


def start_docker_proxy(lab, box):
    """A container with a link to the host, and Docker's proxy to it."""
    lab.host.run("ip", "link", "add", "side", "type", "veth", "peer", "name", "eth0", "netns", str(box.pid))
    for namespace, link, address in ((lab.host, "side", "198.19.6.1/24"), (box, "eth0", "198.19.6.2/24")):
        namespace.run("ip", "addr", "add", address, "dev", link)
        namespace.run("ip", "link", "set", link, "up")
    box.run("ip", "link", "set", "lo", "up")
    # Its descriptor 3 says whether it works.
    proxy = lab.host.spawn(["sh", "-c", "exec docker-proxy -proto tcp -host-ip 127.0.0.1 -host-port 8081 -container-ip 198.19.6.2 "
                            "-container-port 80 3>/dev/null"])
    laboratory.wait_until(lambda: ":8081 " in lab.host.output("ss", "-Htln"), "docker-proxy")
    return proxy


def table(subjects, rounds, seconds):
    names = {"new": "new connections/s", "new cpu": "µs of CPU each", "kept": "kept-alive requests/s", "kept cpu": "µs of CPU each",
             "bulk": "bulk MB/s", "bulk cpu": "s of CPU a GB"}
    lines = [f"{rounds} rounds of {seconds} s, medians.", "", "| |" + "".join(f" {one.name} |" for one in subjects) +
             (" published / docker-proxy |" if len(subjects) > 2 else ""), "|---|" + "---|" * (len(subjects) + (len(subjects) > 2))]
    for key, text in names.items():
        values = [one.median(key) for one in subjects]
        shown = ["–" if "cpu" in key and not one.pids else f"{value:.{0 if value >= 100 else 2}f}"
                 for one, value in zip(subjects, values)]
        ratio = f" {values[1] / values[2]:.2f} |" if len(subjects) > 2 and values[2] else ""
        lines.append(f"| {text} |" + "".join(f" {value} |" for value in shown) + ratio)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(HERE.parent / "build"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sallyport-publish-"))
    folder.chmod(0o755)
    lab = laboratory.Lab(folder, Path(options.build) / "cli/sallyport")
    gateway = Gateway(lab, "policies: {a: {limits: {flows_per_second: 1000000}}}\n")
    processes, linked = [], None
    try:
        gateway.start()
        box = gateway.container("--policy", "a", "--publish", "8080:80")
        processes.append(Server(box, folder / "sealed").process)
        subjects = [Subject("direct", box, 80, []), Subject("published", lab.host, 8080, [gateway.worker()])]
        if shutil.which("docker-proxy"):
            linked = Container(lab)
            proxy = start_docker_proxy(lab, linked)
            processes += [proxy, Server(linked, folder / "linked").process]
            subjects.append(Subject("docker-proxy", lab.host, 8081, [proxy.pid]))
        for _ in range(options.rounds):
            for subject in subjects:
                subject.wrk("new", options.seconds, "-H", "Connection: close")
                subject.wrk("kept", options.seconds)
                subject.bulk()
        text = "\n".join(table(subjects, options.rounds, options.seconds)) + "\n"
    finally:
        for process in processes:
            process.kill()
            process.wait()
        gateway.close()
        if linked:
            linked.close()
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(text, end="")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/publish.md").write_text(f"# A published port\n\n{text}")


if __name__ == "__main__":
    main()
