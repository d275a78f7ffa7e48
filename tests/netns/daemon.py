"""
`sallyport gateway` in the lab, and containers for it: a process in a network namespace of its own with nothing but lo, as
`--network none` makes them.
"""
import json
import os
import queue
import re
import signal
import socket
import subprocess
import threading

from lab import NAME_SERVER, TIMEOUT, Audit, Namespace, wait_until


WORKERS = os.environ.get("SALLYPORT_TEST_WORKERS")  # all the stories with so many, whatever they say of one


class Container(Namespace):
    """A namespace with a resolv.conf that names a server nobody has: any address must do."""

    def __init__(self, lab):
        super().__init__()
        self.lab = lab
        self.resolv_conf = lab.folder / "resolv.conf"
        self.resolv_conf.write_text("nameserver 192.0.2.53\n")

    def command(self, *argv):
        story = f'mount --bind {self.resolv_conf} /etc/resolv.conf && exec "$@"'
        return self.enter(["unshare", "--mount", "sh", "-c", story, "sh", *argv])

    def do(self, *argv, timeout=TIMEOUT, **options):
        return subprocess.run(self.command(*map(str, argv)), text=True, errors="replace", capture_output=True, timeout=timeout,
                              env=self.lab.environment(), **options)

    def start(self, *argv, **options):
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.command(*map(str, argv))], text=True,
                                errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
                                env=self.lab.environment(), **options)

    def curl(self, url, *options):
        return self.do("curl", "-sS", "--max-time", "10", *options, url)

    def sockets(self):
        """How many listening and UDP sockets live in the namespace, whoever holds them."""
        lines = self.output("sh", "-c", "cd /proc/thread-self/net && cat tcp tcp6 udp udp6").splitlines()
        return sum(line.split()[3] in ("0A", "07") for line in lines)

    def network(self):
        """Links, addresses, routes and rules."""
        return self.output("sh", "-c", "ip -br link; ip -br addr; ip -4 route; ip -6 route; nft list ruleset")

    def ruleset(self):
        return self.output("nft", "list", "ruleset")

    def rules(self):
        """The ruleset without what it has counted."""
        return re.sub(r"counter packets \d+ bytes \d+", "counter", self.ruleset())

    def links(self):
        return {line.split()[0].split("@")[0] for line in self.output("ip", "-br", "link").splitlines()}

    def inode(self):
        return os.stat(f"/proc/{self.pid}/ns/net").st_ino


class Gateway:
    """The daemon, told when it is ready through sd_notify. May be killed and started again on the same state."""

    def __init__(self, lab, policy, options=(), settings=""):
        self.lab = lab
        self.settings = settings  # further keys of `gateway:`, each behind a comma
        if WORKERS and "workers:" not in settings:
            self.settings += f", workers: {WORKERS}"
        lab.runs += 1
        self.folder = lab.folder / f"gateway-{lab.runs}"
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.control, self.state = self.folder / "control.sock", self.folder / "state"
        self.api = self.folder / "api.sock"
        self.config, self.audit_path, self.log_path = (self.folder / name for name in ("policy.yaml", "audit.jsonl", "log"))
        self.options = options
        self.process = None
        self.containers = []
        self.violations = False  # the worker is made to do what its seccomp filter forbids
        self.notices = queue.Queue()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.folder / "notify.sock"))
        threading.Thread(target=self._listen, daemon=True).start()
        self.write_policy(policy)

    def _listen(self):
        try:
            while notice := self.notify.recv(4096):
                self.notices.put(notice.decode().splitlines())
        except OSError:
            pass  # closed

    def write_policy(self, policy):
        text = f"version: 1\ngateway: {{resolvers: [{NAME_SERVER}]{self.settings}}}\n" \
               'destinations: {allow: [198.18.0.0/15, "2001:db8::/32"]}\n' + policy
        self.config.write_text(text)

    def command(self):
        return [str(self.lab.binary), "gateway", "-c", str(self.config), "--control", str(self.control), "--state",
                str(self.state), "--audit", str(self.audit_path), *self.options]

    def start(self, wait=True):
        while not self.notices.empty():  # of the one before
            self.notices.get_nowait()
        log = open(self.log_path, "a")
        # Not with the test's own pipes: the worker would keep them open when the monitor is killed.
        self.process = subprocess.Popen(
            self.lab.host.enter(["setpriv", "--pdeathsig", "KILL", "--", *self.command()]), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, env={**self.lab.environment(), "NOTIFY_SOCKET": str(self.folder / "notify.sock")},
            cwd="/", start_new_session=True)
        log.close()
        if wait:
            self.await_notice("READY=1")
        return self

    def await_notice(self, line, seconds=20):
        """The next notice with this line in it."""
        while True:
            try:
                lines = self.notices.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"never said {line}\n{self.log()}") from None
            if line in lines:
                return lines

    def log(self):
        text = self.log_path.read_text(errors="replace")
        assert "AddressSanitizer" not in text and "runtime error:" not in text, text
        assert self.violations or "seccomp filter" not in text, text
        return text

    def ask(self, command, *arguments):
        return subprocess.run([str(self.lab.binary), command, "--control", str(self.control), *map(str, arguments)], text=True,
                              capture_output=True, timeout=TIMEOUT, env=self.lab.environment())

    def told(self, command, *arguments):
        """The same, which must succeed; the answer's JSON."""
        done = self.ask(command, "--json", *arguments)
        assert done.returncode == 0, done.stderr + self.log()
        return json.loads(done.stdout)

    def container(self, *options, enroll=True):
        made = Container(self.lab)
        self.containers.append(made)
        made.id = f"box-{len(self.containers)}"
        if enroll:
            self.told("enroll", "--pid", made.pid, "--id", made.id, *options)
        return made

    def request(self, request, timeout=20):
        """One request on the control socket, as the commands make it; the answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(timeout)
            control.connect(str(self.control))
            control.send(json.dumps(request).encode())
            text = b""
            while piece := control.recv(1 << 16):
                text += piece
        return json.loads(text)

    def status(self):
        return self.request({"do": "status"})

    def worker(self):
        return self.status()["worker"]

    def workers(self):
        """All of them, in order."""
        return [worker["pid"] for worker in self.status()["workers"]]

    def worker_of(self, box):
        """The one that serves it, by its id."""
        number, = (one.get("worker", 1) for one in self.told("ps") if one["id"] == box)
        return self.workers()[number - 1]

    def kill_worker(self):
        """All workers, where there are several."""
        before = self.status()
        for worker in before["workers"]:
            os.kill(worker["pid"], signal.SIGKILL)
        return {**before, "killed": len(before["workers"])}

    def await_new_worker(self, before, seconds=1):
        def there():
            now = self.status()
            return now["ready"] and now["worker_restarts"] >= before["worker_restarts"] + before.get("killed", 1)
        wait_until(there, "a new worker", seconds)

    def kill(self):
        """The monitor alone; the worker has to notice by itself."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers), "the end of the worker")

    def stop(self, timeout=20):
        self.process.terminate()
        return self.process.wait(timeout)

    def audit(self, complete=True):
        return Audit.read(self.audit_path, complete=complete)

    def await_event(self, found, what="an audit event", seconds=10):
        wait_until(lambda: found(self.audit(complete=False)), what, seconds)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for container in self.containers:
            container.close()
        self.notify.shutdown(socket.SHUT_RDWR)
        self.notify.close()

