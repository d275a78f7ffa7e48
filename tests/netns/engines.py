"""
Real engines for the tests: podman with the OCI hook, dockerd with the runtime wrapper, each set up by our own command, with storage of
its own, in a network namespace of its own. Containers are made of this machine's /usr.
"""
import os
import shutil
import signal
import subprocess
import time

import pytest

from lab import Namespace, missing_programs


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


def mounts(gateway):
    return ["-v", "/usr:/usr:ro", "-v", f"{gateway.lab.authority}:/ca/ca.pem:ro", "-v", "/etc/alternatives:/etc/alternatives:ro"]


class Podman:
    """podman with storage of its own; the hook is ours."""

    def __init__(self, gateway, folder):
        self.gateway, self.folder, self.hooks, self.more_environment = gateway, folder, folder / "hooks", {}
        self.namespace = Namespace()  # its bridges and its iptables rules stay there
        self.namespace.run("ip", "link", "set", "lo", "up")
        self.configure()
        # In a mount namespace of its own: what it leaves mounted goes with its last process.
        self.base = ["unshare", "--mount", "podman", "--root", folder / "storage", "--runroot", folder / "run", "--runtime", "runc",
                     "--cgroup-manager", "cgroupfs", "--hooks-dir", self.hooks, "--network-config-dir", folder / "networks"]
        self.root = make_root(folder)
        (folder / "networks").mkdir()

    def configure(self, *options):
        done = subprocess.run([str(self.gateway.lab.binary), "podman", "configure", "--hooks-dir", str(self.hooks), "--control",
                               str(self.gateway.control), *options], capture_output=True, text=True)
        assert done.returncode == 0, done
        return done.stdout

    def podman(self, *arguments, **options):
        return subprocess.run(list(map(str, self.namespace.enter([*self.base, *arguments]))), capture_output=True, text=True, timeout=60,
                              env=self.environment(), **options)

    def share_mounts(self):
        """In our mount namespace, as on a host: what it leaves mounted is unmounted by close()."""
        self.base = self.base[2:]

    def environment(self):
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), **self.more_environment}

    def options(self, policy="agents"):
        """What every container needs here."""
        return [*(["--annotation", f"sallyport.policy={policy}"] if policy else []), "--ulimit", "nofile=4096:4096", "--ulimit",
                "nproc=1000:1000", "-e", "CURL_CA_BUNDLE=/ca/ca.pem", *mounts(self.gateway)]

    def line(self, command, *options, network="none", policy="agents"):
        return [*map(str, [*self.base, "run", "--rm", "--network", network, *self.options(policy), *options, "--rootfs",
                           f"{self.root}:O"]), *command]

    def run(self, command, *options, **more):
        line = list(map(str, self.namespace.enter(self.line(command, *options, **more))))
        return subprocess.run(line, capture_output=True, text=True, timeout=60, env=self.environment())

    def start(self, command, *options, **more):
        return subprocess.Popen(self.line(command, *options, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=self.environment())

    def close(self):
        self.podman("rm", "-af", "-t", "0")
        if self.base[0] == "podman":
            subprocess.run(["umount", "-R", "-l", str(self.folder / "storage/overlay")], stderr=subprocess.DEVNULL)
        self.namespace.close()


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
        engine.close()
        pytest.skip(f"podman runs no container here: {tried.stderr.strip()[-300:]}")
    yield engine
    engine.close()
    shutil.rmtree(folder, ignore_errors=True)


class Docker:
    """dockerd in a network namespace of its own, with the wrapper as a runtime."""

    def __init__(self, gateway, folder):
        self.gateway, self.folder = gateway, folder
        self.namespace = Namespace()
        self.namespace.run("ip", "link", "set", "lo", "up")
        (folder / "daemon.json").write_text('{"log-opts": {"max-size": "1m"}}\n')
        self.configure()
        self.log = open(folder / "dockerd.log", "w+")
        self.host = f"unix://{folder}/docker.sock"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)}
        # Its own session: it starts containerd, and all of them are ended together.
        self.daemon = subprocess.Popen(
            self.namespace.enter(["dockerd", "--config-file", folder / "daemon.json", "--data-root", folder / "data",
                                  "--exec-root", folder / "exec", "-p", folder / "pid", "-H", self.host,
                                  "--default-ulimit", "nofile=4096:4096"]),
            stdout=self.log, stderr=self.log, env=environment, start_new_session=True)

    def configure(self, *options):
        done = subprocess.run([str(self.gateway.lab.binary), "docker", "configure", "--config", str(self.folder / "daemon.json"),
                               "--control", str(self.gateway.control), *options], capture_output=True, text=True)
        assert done.returncode == 0, done
        return done.stdout

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
        return self.docker("run", "--rm", "--runtime", runtime, "--network", network, *self.options(), *options, "story", *command)

    def options(self):
        return ["-e", "CURL_CA_BUNDLE=/ca/ca.pem", *mounts(self.gateway)]

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
