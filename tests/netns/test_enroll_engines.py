"""Real engines: podman through the OCI hook, Docker through the runtime wrapper. Containers are made of this machine's /usr."""
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import Namespace, missing_programs, wait_until
from origins import address


def make_root(folder):
    """A root file system whose /usr comes by a mount."""
    root = folder / "root"
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "run", "ca"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.53\n")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    return root


STORY = "curl -sS --max-time 10 https://allowed.example/; curl -sS --max-time 10 https://denied.example/; echo $?"


def mounts(gateway):
    return ["-v", "/usr:/usr:ro", "-v", f"{gateway.lab.authority}:/ca/ca.pem:ro", "-v", "/etc/alternatives:/etc/alternatives:ro"]


# --- podman --------------------------------------------------------------------------------------------------------

class Podman:
    """podman with storage of its own; the hook is ours."""

    def __init__(self, gateway, folder):
        self.gateway, self.folder = gateway, folder
        hooks = folder / "hooks"
        hooks.mkdir()
        hook = {"version": "1.0.0", "stages": ["createRuntime", "poststop"],
                "hook": {"path": str(gateway.lab.binary), "args": ["sallyport", "oci-hook", "--control", str(gateway.control)]},
                "when": {"annotations": {"^sallyport\\.policy$": ".*"}}}
        (hooks / "50-sallyport.json").write_text(json.dumps(hook))
        # In a mount namespace of its own: what it leaves mounted goes with its last process.
        self.base = ["unshare", "--mount", "podman", "--root", folder / "storage", "--runroot", folder / "run", "--runtime", "runc",
                     "--cgroup-manager", "cgroupfs", "--hooks-dir", hooks]
        self.root = make_root(folder)

    def line(self, command, *options, network="none", policy="agents"):
        policy = ["--annotation", f"sallyport.policy={policy}"] if policy else []
        limits = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000"]
        return [*map(str, [*self.base, "run", "--rm", "--network", network, *limits, *policy, "-e",
                           "CURL_CA_BUNDLE=/ca/ca.pem", *mounts(self.gateway), *options, "--rootfs", f"{self.root}:O"]), *command]

    def run(self, command, *options, **more):
        return subprocess.run(self.line(command, *options, **more), capture_output=True, text=True, timeout=60,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)})

    def start(self, command, *options, **more):
        return subprocess.Popen(self.line(command, *options, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)})


@pytest.fixture
def podman(gateway):
    missing = missing_programs("podman", "runc")
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    folder = gateway.folder / "p"  # not tmp_path: podman wants no more than 50 characters
    folder.mkdir()
    engine = Podman(gateway, folder)
    tried = engine.run(["true"], policy=None)
    if tried.returncode:
        pytest.skip(f"podman runs no container here: {tried.stderr.strip()[-300:]}")
    yield engine
    shutil.rmtree(folder, ignore_errors=True)


def test_podman_a_container_is_behind_the_gateway_from_its_first_moment(gateway, podman):
    uplink = gateway.lab.capture()
    done = podman.run(["sh", "-c", STORY], "--annotation", "sallyport.name=ci-7")
    assert done.stdout.startswith("allowed.example at ") and done.stdout.rstrip().endswith("6"), done  # could not resolve
    assert not uplink.carrying("denied")
    gateway.await_event(lambda events: events.where(event_action="flow-ended"))
    [event] = gateway.audit().allowed("allowed.example")
    assert event["container.name"] == "ci-7" and len(event["container.id"]) == 64
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")


def test_podman_without_the_annotation_nothing_is_touched(gateway, podman):
    assert podman.run(["ls", "/sys/class/net"], policy=None).stdout.split() == ["lo"]
    assert "eth0" in podman.run(["ls", "/sys/class/net"]).stdout.split()


@pytest.mark.parametrize("policy, hint", [("ghost", 'no policy "ghost"')])
def test_podman_a_container_that_is_refused_does_not_start(gateway, podman, policy, hint):
    done = podman.run(["echo", "it ran"], policy=policy)
    assert done.returncode == 126 and hint in done.stderr and "it ran" not in done.stdout, done
    assert hint in gateway.log()
    assert gateway.told("ps") == []


def test_podman_without_a_gateway_no_container_starts(gateway, podman):
    gateway.kill()
    done = podman.run(["echo", "it ran"])
    assert done.returncode and "no gateway answers" in done.stderr and "it ran" not in done.stdout, done


def test_podman_with_the_hosts_network_no_container_starts(gateway, podman):
    """In a network namespace of the test's own, to be sure that no real one is in danger."""
    line = podman.line(["echo", "it ran"], network="host")
    done = gateway.lab.host.run(*line, capture_output=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"})
    assert done.returncode and "network namespace of the host" in done.stderr and "it ran" not in done.stdout, done
    assert "sallyport" not in gateway.lab.host.output("nft", "list", "ruleset")


def test_podman_a_bad_annotation_is_told(gateway, podman):
    done = podman.run(["echo", "it ran"], "--annotation", "sallyport.capture=both")
    assert done.returncode and "write sealed or attached" in done.stderr, done


def test_podman_root_with_net_admin_inside_cannot_open_it(gateway, podman):
    uplink = gateway.lab.capture()
    story = """nft flush ruleset; ip route replace default dev eth0; ip link add more type veth peer name less
        curl -sS --max-time 2 https://198.18.2.1/; ping -c 1 -W 1 198.18.2.1; echo done"""
    done = podman.run(["sh", "-c", story], "--cap-add", "NET_ADMIN,NET_RAW")
    assert done.stdout.endswith("done\n"), done
    assert uplink.packets() == []


def test_podman_kill_9_of_everything_and_the_container_goes_on(gateway, podman):
    story = "while :; do curl -sS --max-time 10 https://allowed.example/ 2>/dev/null || echo no; sleep 0.05; done"
    running = podman.start(["sh", "-c", story])
    try:
        assert running.stdout.readline().startswith("allowed.example at")
        gateway.kill()
        wait_until(lambda: running.stdout.readline() == "no\n", "the closed gateway")
        gateway.start()
        wait_until(lambda: running.stdout.readline().startswith("allowed.example at"), "service again")
    finally:
        running.kill()
        subprocess.run([*map(str, podman.base), "rm", "-af", "-t", "0"], capture_output=True,
                       env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(podman.folder)})
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")


# --- Docker --------------------------------------------------------------------------------------------------------

class Docker:
    """dockerd in a network namespace of its own, with the wrapper as a runtime."""

    def __init__(self, gateway, folder):
        self.gateway, self.folder = gateway, folder
        self.namespace = Namespace()
        self.namespace.run("ip", "link", "set", "lo", "up")
        config = {"runtimes": {"sallyport": {"path": str(gateway.lab.binary),
                                             "runtimeArgs": ["oci-runtime", "--control", str(gateway.control)]}}}
        (folder / "daemon.json").write_text(json.dumps(config))
        self.log = open(folder / "dockerd.log", "w+")
        self.host = f"unix://{folder}/docker.sock"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)}
        # Its own session: it starts containerd, and all of them are ended together.
        self.daemon = subprocess.Popen(
            self.namespace.enter(["dockerd", "--config-file", folder / "daemon.json", "--data-root", folder / "data",
                                  "--exec-root", folder / "exec", "-p", folder / "pid", "-H", self.host,
                                  "--default-ulimit", "nofile=4096:4096"]),
            stdout=self.log, stderr=self.log, env=environment, start_new_session=True)

    def docker(self, *arguments, **options):
        return subprocess.run(["/usr/bin/docker", "-H", self.host, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)}, **options)

    def await_ready(self):
        deadline = time.monotonic() + 30
        while self.docker("info").returncode:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                return self.log.read()[-400:]
            time.sleep(0.1)
        return None

    def run(self, command, *options, network="none", runtime="sallyport"):
        return self.docker("run", "--rm", "--runtime", runtime, "--network", network, "-e", "CURL_CA_BUNDLE=/ca/ca.pem",
                           *mounts(self.gateway), "-v", f"{self.folder}/root/etc/resolv.conf:/etc/resolv.conf:ro", *options,
                           "story", *command)

    def close(self):
        if self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.daemon.pid, signal.SIGKILL)
                self.daemon.wait()
        self.log.close()
        self.namespace.close()


@pytest.fixture
def docker(gateway):
    if missing := missing_programs("dockerd", "containerd", "runc"):
        pytest.skip(f"not installed: {' '.join(missing)}")
    if not os.path.exists("/usr/bin/docker"):
        pytest.skip("not installed: docker")
    folder = gateway.folder / "docker"  # not tmp_path: its name would make the socket's path too long
    folder.mkdir()
    engine = Docker(gateway, folder)
    try:
        if problem := engine.await_ready():
            pytest.skip(f"dockerd does not run here: {problem}")
        root = make_root(folder)
        packed = subprocess.run(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE, check=True)
        imported = subprocess.run(["/usr/bin/docker", "-H", engine.host, "import", "-", "story"], input=packed.stdout,
                                  capture_output=True)
        assert imported.returncode == 0, imported.stderr
        tried = engine.run(["true"], runtime="runc")
        if tried.returncode:
            pytest.skip(f"docker runs no container here: {tried.stderr[-300:]}")
        yield engine
    finally:
        engine.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_docker_by_the_runtime_wrapper(gateway, docker):
    uplink = gateway.lab.capture()
    done = docker.run(["sh", "-c", STORY], "-e", "SALLYPORT_POLICY=agents", "--hostname", "ci-9")
    assert done.stdout.startswith(f"allowed.example at {address('allowed.example')[:4]}"), done
    assert not uplink.carrying("denied")
    gateway.await_event(lambda events: events.where(event_action="flow-ended"))
    [event] = gateway.audit().allowed("allowed.example")
    assert event["container.name"] == "ci-9" and event["rule.ruleset"] == "agents"
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")
    # No policy named: by the assign rules, which go by the name.
    done = docker.run(["sh", "-c", STORY], "--hostname", "ci-10")
    assert done.stdout.startswith("allowed.example at"), done
    assert "allowed.example at" not in docker.run(["sh", "-c", STORY], "--hostname", "web").stdout
    # Refused: does not start.
    done = docker.run(["echo", "it ran"], "-e", "SALLYPORT_POLICY=ghost")
    assert done.returncode and "it ran" not in done.stdout and 'no policy "ghost"' in done.stderr + gateway.log(), done
    # With another runtime nothing changes.
    assert docker.run(["ls", "/sys/class/net"], runtime="runc").stdout.split() == ["lo"]
