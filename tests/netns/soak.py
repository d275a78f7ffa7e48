"""
A mixed load with faults in the middle of it, and the account at its end. Used by test_soak.py (seconds) and scripts/soak (minutes).

Containers come and go; they look names up, fetch over TLS and HTTP, upload, hold connections, are refused, reset, half-close. Meanwhile
the policy is reloaded, audit files are rotated, the worker is killed now and then (and the monitor, in long runs). At the end every flow
that was accepted is denied or closed, the audit's numbers have no gap, and memory and descriptors are where they were.
"""
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from daemon import Gateway
from lab import wait_until

POLICY = """
policies:
  agents: {{allow: [allowed.example, "*.wild.example", big.example, end.example, "tcp://ssh.example:22", "198.18.7.0/24"{more}]}}
  nothing: {{}}
default: deny
"""

# One container's life: SECONDS, a seed.
LOAD = r"""
import random, socket, ssl, struct, subprocess, sys, time
end, chance = time.monotonic() + float(sys.argv[1]), random.Random(int(sys.argv[2]))
done = {}
def dial(place, port):
    c = socket.create_connection((place, port), timeout=10); return c
def tls(name, place):
    context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(dial(place, 443), server_hostname=name) as c:
        c.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        while c.recv(65536): pass
def http(name, place, times=3):
    with dial(place, 80) as c:
        f = c.makefile("rb")
        for _ in range(times):
            c.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            head = b""
            while (line := f.readline()) and line != b"\r\n": head += line
            if not head: return
            length = [int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length")]
            f.read(length[0] if length else 0)
def upload():
    with dial("198.18.7.1", 7000) as c:
        c.sendall(bytes(chance.randrange(200000))); c.shutdown(1); c.recv(100)
def reset():
    with dial("198.18.7.1", 7002) as c:
        c.recv(9); c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
def half():
    with dial("198.18.7.1", 7003) as c:
        while c.recv(100): pass
        c.sendall(bytes(5000))
def silent():
    with dial("198.18.1.1", 443) as c: c.settimeout(0.2); c.recv(1)
def garbage():
    with dial("198.18.1.1", chance.choice([80, 443])) as c:
        c.sendall(chance.randbytes(chance.randrange(1, 2000))); c.settimeout(1); c.recv(100)
def look_up():
    socket.getaddrinfo(chance.choice(["allowed.example", "denied.example", f"n{chance.randrange(10**6)}.denied.example"]), 443)
stories = [lambda: tls("allowed.example", "198.18.1.1"), lambda: http("allowed.example", "198.18.1.1"), upload, reset, half, silent, garbage,
           look_up, lambda: tls("denied.example", "198.18.2.1"), lambda: http("denied.example", "198.18.2.1"), lambda: dial("198.18.4.1", 22)]
while time.monotonic() < end:
    story = chance.randrange(len(stories))
    try: stories[story](); done[story] = done.get(story, 0) + 1
    except OSError: pass
print(sum(done.values()), len(done))
"""


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Soak:
    def __init__(self, lab, seconds, seed, kill_monitor):
        self.lab, self.seconds, self.chance, self.kill_monitor = lab, seconds, random.Random(seed), kill_monitor
        self.gateway = Gateway(lab, POLICY.format(more=""))
        self.counts = dict.fromkeys(("reloads", "rotations", "workers killed", "monitors killed", "containers", "actions"), 0)
        self.files, self.recoveries = [], []

    # What happens in between.

    def reload(self):
        # Some live flows lose their rule, and get it back.
        self.gateway.write_policy(POLICY.format(more=self.chance.choice(["", ", other.example", ', "*.more.example"'])))
        if self.gateway.ask("reload").returncode == 0:
            self.counts["reloads"] += 1

    def rotate(self):
        rotated = self.gateway.audit_path.with_name(f"audit-{len(self.files):04}.jsonl")
        before = self.gateway.audit_path.stat().st_ino
        self.gateway.audit_path.rename(rotated)
        self.files.append(rotated)
        os.kill(self.gateway.process.pid, signal.SIGUSR1)
        wait_until(lambda: self.gateway.audit_path.exists() and self.gateway.audit_path.stat().st_ino != before, "a new audit file", 20)
        self.counts["rotations"] += 1

    def kill_worker(self):
        begin = time.monotonic()
        killed = self.gateway.kill_worker()
        self.gateway.await_new_worker(killed, 20)
        self.recoveries.append(time.monotonic() - begin)
        self.counts["workers killed"] += len(killed["workers"])

    def kill_the_monitor(self):
        begin = time.monotonic()
        starts = self.gateway.log().count("ready: ")
        self.gateway.kill()
        self.gateway.start()
        wait_until(lambda: self.gateway.log().count("ready: ") > starts, "the next monitor", 20)
        self.recoveries.append(time.monotonic() - begin)
        self.counts["monitors killed"] += 1

    def container(self):
        box = self.gateway.container("--policy", self.chance.choice(["agents", "agents", "nothing"]))
        self.counts["containers"] += 1
        return box

    def start_load(self, box, seconds):
        return box.start("/usr/bin/python3", "-c", LOAD, str(seconds), str(self.chance.randrange(10**6)))

    def run(self):
        gateway = self.gateway.start()
        warm = self.container()
        self.start_load(warm, min(2, self.seconds / 5)).wait(60)
        end = time.monotonic() + self.seconds
        loads = []
        faults = [self.reload, self.reload, self.rotate, self.kill_worker] + [self.kill_the_monitor] * self.kill_monitor
        while time.monotonic() < end:
            loads = [(box, load) for box, load in loads if load.poll() is None or not self.finished(box, load)]
            while len(loads) < 3:
                box = self.container()
                loads.append((box, self.start_load(box, self.chance.uniform(1, min(15, self.seconds / 3)))))
            self.chance.choice(faults)()
            time.sleep(self.chance.uniform(0.2, min(3, self.seconds / 10)))
        for box, load in loads:
            load.wait(60)
            self.finished(box, load)
        return self.account(warm)

    def finished(self, box, load):
        out, err = load.communicate()
        assert load.returncode == 0, err
        self.counts["actions"] += int(out.split()[0])
        if self.chance.random() < 0.5:
            self.gateway.ask("withdraw", box.id)  # half of them are withdrawn, the other half just end
        box.close()
        return True

    # The account.

    def account(self, warm):
        """One worker is watched from here on: the same load twice, and it ends as it began."""
        gateway = self.gateway
        worker, sizes = gateway.worker(), []
        for _ in range(4):
            self.start_load(warm, min(20, max(2, self.seconds / 10))).wait(60)
            wait_until(lambda: gateway.status()["ready"], "the gateway")
            sizes.append((resident(worker), descriptors(worker), resident(gateway.process.pid), descriptors(gateway.process.pid)))
        enrolled = gateway.told("ps")
        assert gateway.worker() == worker
        assert gateway.stop(60) == 0
        return {"counts": self.counts, "sizes": sizes, "enrolled": len(enrolled), "recovery": max(self.recoveries, default=0),
                **self.flows()}

    def flows(self):
        """Every flow: begun is ended, unless its worker was killed; and the numbers of the log."""
        events, runs, latest, begun, ended, denied, torn = 0, 0, {}, set(), set(), 0, 0
        for file in [*self.files, self.gateway.audit_path]:
            for line in file.read_text(errors="replace").splitlines():
                try:
                    whole = json.loads(line)
                except ValueError:
                    torn += 1  # the last line of a worker that was killed
                    continue
                event, worker = whole["event"], whole["sallyport"].get("worker")  # each of several has its own numbers
                runs += event["sequence"] != latest.get(worker, 0) + 1
                latest[worker] = event["sequence"]
                events += 1
                begun |= {event["id"]} if event["action"] == "flow-allowed" else set()
                ended |= {event["id"]} if event["action"] == "flow-ended" else set()
                denied += event["action"] == "flow-denied"
        return {"events": events, "runs of numbers": runs, "workers": len(latest), "begun": len(begun), "ended of those": len(begun & ended),
                "without an end": len(begun - ended), "denied": denied, "torn": torn}

    def close(self):
        self.gateway.close()


def judge(report):
    """What must hold, as sentences about what does not."""
    wrong, counts = [], report["counts"]
    killed = counts["workers killed"] + counts["monitors killed"]
    if report["without an end"] and not killed:
        wrong.append(f"{report['without an end']} flows have no end")
    if report["runs of numbers"] > killed + counts["monitors killed"] * (report["workers"] - 1) + report["workers"]:  # a worker counts from where it begins
        wrong.append(f"gaps in the numbers of the log: {report['runs of numbers']} runs, for {killed} deaths")
    if report["torn"] > killed:
        wrong.append(f"{report['torn']} torn lines, for {killed} deaths")
    (first_size, first_fds, first_monitor, first_monitor_fds), (size, fds, monitor, monitor_fds) = report["sizes"][1], report["sizes"][-1]
    if fds > first_fds + 4 or monitor_fds > first_monitor_fds:
        wrong.append(f"descriptors grew: worker {first_fds} to {fds}, monitor {first_monitor_fds} to {monitor_fds}")
    if size > first_size * 1.1 + 1024 or monitor > first_monitor * 1.1 + 512:
        wrong.append(f"memory grew: worker {first_size} to {size} KiB, monitor {first_monitor} to {monitor} KiB")
    if not counts["actions"] or not report["denied"] or not report["begun"]:
        wrong.append("nothing happened")
    return wrong
