"""
Ways from a client to the origin. Each is a context manager that gives a Talker: one long-lived https_client whose
connections go that way. What is to be compared gets a function here (a peer: start it in lab.host, send the client's
connections to it), and takes its turn in the same interleave() as the others.
"""
import contextlib
import json
import subprocess

from lab import NAME_SERVER
from origin import FRESH, NAME
from series import Failure


class Talker:
    """A process that answers every line with one line."""

    def __init__(self, process):
        self.process = process

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def await_ready(self):
        word = self.process.stdout.readline().strip()
        if word != "ready":
            raise RuntimeError(f"the client did not start: {word} {self.process.stderr.read()}")
        return self

    def _answer(self):
        words = self.process.stdout.readline().split(None, 1)
        if not words:
            raise RuntimeError(f"the client has died: {self.process.stderr.read()}")
        if words[0] != "ok":
            raise Failure(" ".join(words).strip())
        return [int(word) for word in words[1].split()]

    def get(self, name, address):
        """The whole of one connection, in nanoseconds."""
        return self.ask(f"get {name} {address}")[-1]

    def hold(self, count, name, address):
        self.ask(f"hold {count} {name} {address}")

    def first_byte(self, argv):
        return self.ask(json.dumps([str(word) for word in argv]))[0]


def _client(lab):
    return [lab.folder / "https_client", lab.folder / "ca.pem", NAME_SERVER]


def _end(process):
    process.stdin.close()
    process.stdin = None  # communicate() would flush it
    _, complaints = process.communicate(timeout=60)
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}: {complaints}")


def _spawn(lab, argv, **options):
    return subprocess.Popen(lab.host.enter(["setpriv", "--pdeathsig", "KILL", *options.pop("identity", []), "--", *argv]),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", **options)


@contextlib.contextmanager
def direct(lab):
    """No gateway: the client stands where the gateway's worker would."""
    process = _spawn(lab, _client(lab), env=lab.environment())
    yield Talker(process).await_ready()
    _end(process)


@contextlib.contextmanager
def gateway(lab):
    """One `sallyport exec` with an audit log, as it is used."""
    running = lab.start(_client(lab), allow=[NAME, f"*.{FRESH}"])
    talker = Talker(running.process).await_ready()
    talker.running = running
    yield talker
    if running.process.stdin:
        _end(running.process)


def allowed_flows(talker):
    """Ends the gateway's client; how many flows were let through, by its audit log."""
    _end(talker.process)
    return len(talker.running.audit_now().allowed())


@contextlib.contextmanager
def starter(lab, user=None):
    """Starts commands and times their first byte, as root or as a uid."""
    identity = ["--reuid", str(user), "--regid", str(user), "--clear-groups"] if user else []
    process = _spawn(lab, ["/usr/bin/python3", lab.folder / "first_byte.py"], identity=identity, env=lab.environment(user))
    yield Talker(process)
    _end(process)
