"""The container image, built as scripts/package does over a small Debian, and run as doc/ENGINES.md says."""
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon import Container
from engines import Podman
from lab import NAME_SERVER, ROOT, TIMEOUT, missing_programs, wait_until

PAGE = (ROOT / "doc/ENGINES.md").read_text()
POLICY = f"""version: 1
gateway: {{resolvers: [{NAME_SERVER}], audit: {{file: /var/log/sallyport/audit.jsonl}}}}
destinations: {{allow: [198.18.0.0/15, "2001:db8::/32"]}}
policies: {{agents: {{allow: [allowed.example]}}}}
default: deny
"""
SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
HERE = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=1000:1000"]  # a test machine may not allow what engines ask for


def run(*command, timeout=TIMEOUT, **options):
    return subprocess.run(list(map(str, command)), text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, **options)


@pytest.fixture(scope="module")
def image():
    """The storage that has it, as an environment; its name; the archive."""
    if missing := missing_programs("mmdebstrap", "buildah", "podman", "runc"):
        pytest.skip(f"not installed: {' '.join(missing)} (scripts/install-deps image test)")
    # In memory, where nothing waits for a disk; and podman wants short paths.
    with tempfile.TemporaryDirectory(prefix="sallyport-image-", dir="/dev/shm", ignore_cleanup_errors=True) as folder:
        yield build(Path(folder))
        run("umount", "-R", "-l", f"{folder}/s/overlay")


def build(folder):
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf", "TMPDIR": str(folder)}
    mirror = [file for file in SOURCES if os.path.exists(file)][:1]  # this machine's
    base = run("mmdebstrap", "--variant=minbase", "bookworm", folder / "base.tar", *mirror, env=environment, timeout=600)
    if base.returncode:
        pytest.skip(f"no Debian to build it on: {base.stderr.strip()[-300:]}")
    (folder / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/s"\nrunroot = "{folder}/r"\n')
    made = run("podman", "import", "-q", folder / "base.tar", "localhost/base", env=environment, timeout=300)
    if made.returncode:
        pytest.skip(f"podman keeps no image here: {made.stderr.strip()[-300:]}")
    done = run(ROOT / "scripts/package", "image", folder, env={**environment, "BASE": "localhost/base"}, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    [archive] = folder.glob("sallyport-*.tar")
    return SimpleNamespace(environment=environment, archive=archive, name=f"localhost/sallyport:{archive.stem.partition('-')[2]}")


class Gateway:
    """It, as a container whose host is the lab's."""

    def __init__(self, lab, image, folder):
        self.lab, self.folder, self.environment = lab, folder, image.environment
        for name in ("etc", "run", "lib", "log"):
            (folder / name).mkdir()
        (folder / "etc/sallyport.yaml").write_text(POLICY)
        (folder / "netns").mkdir()
        self.control = folder / "run/control.sock"
        self.output = open(folder / "said", "w+")
        # A host has shared mounts; this machine may not.
        self.process = subprocess.Popen(
            lab.host.enter(["unshare", "--mount", "--propagation", "shared", *self.podman(), "run", *HERE, *self.options(), image.name]),
            env=image.environment, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output)

    def options(self):
        """Those of the page, with folders of this test in place of the host's."""
        [line] = re.findall(r"^sudo podman run -d (--name sallyport .*?) sallyport$", PAGE, flags=re.M | re.S)
        line = line.replace("--restart always ", "").replace("\\\n", " ")
        for place, name in (("/etc/sallyport", "etc"), ("/run/sallyport", "run"), ("/run/netns", "netns"), ("/var/lib/sallyport", "lib"),
                            ("/var/log/sallyport", "log")):
            assert f"-v {place}:" in line
            line = line.replace(f"-v {place}:", f"-v {self.folder}/{name}:")
        return shlex.split(line)

    @staticmethod
    def podman():
        return ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def ask(self, *arguments):
        return run(*self.podman(), *arguments, env=self.environment)

    def said(self):
        return (self.folder / "said").read_text()

    def close(self):
        self.ask("rm", "-f", "-t", "0", "sallyport")
        self.process.wait(TIMEOUT)
        self.output.close()


@pytest.fixture
def served(lab, image, tmp_path):
    tried = run(*Gateway.podman(), "run", "--rm", "--network", "none", *HERE, image.name, "--version", env=image.environment)
    if tried.returncode:
        pytest.skip(f"podman runs no container here: {tried.stderr.strip()[-300:]}")
    made = Gateway(lab, image, tmp_path)
    try:
        wait_until(lambda: made.process.poll() is not None or made.control.exists(), "the gateway to listen", 60)
        assert made.process.poll() is None, made.said()
        yield made
    finally:
        made.close()


def processes(gateway):
    """/proc/PID/status of the monitor and of the worker."""
    found = {}
    for pid in re.findall(r"\d+", gateway.ask("exec", "sallyport", "sallyport", "status", "--json").stdout):
        if os.path.exists(f"/proc/{pid}/status"):
            with open(f"/proc/{pid}/status") as file:
                fields = dict(line.split(":\t", 1) for line in file.read().splitlines())
            found[fields["Name"]] = fields
    return found


def test_it_serves_with_eight_capabilities_and_nothing_to_write_on(served):
    box = Container(served.lab)
    try:
        enrolled = run(served.lab.binary, "enroll", "--control", served.control, "--pid", box.pid, "--id", "box", "--policy", "agents")
        assert enrolled.returncode == 0, enrolled.stderr + served.said()
        assert box.curl("https://allowed.example/").returncode == 0, served.said()
        assert box.curl("https://denied.example/").returncode
        assert box.output("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").strip() == "0"  # a setting it makes in there
        assert served.ask("healthcheck", "run", "sallyport").returncode == 0
        assert served.ask("exec", "sallyport", "touch", "/usr/bin/x").returncode
        seen = processes(served)
        assert int(seen["sallyport"]["CapBnd"], 16) == 0x2835C0 and seen["sallyport"]["NoNewPrivs"] == "1"
        worker = seen["sallyport-work"]
        assert int(worker["CapEff"], 16) == 0 and worker["Uid"].split()[0] != "0" and worker["Seccomp"] == "2"
        assert '"flow-allowed"' in (served.folder / "log/audit.jsonl").read_text()
        assert served.ask("stop", "sallyport").returncode == 0 and served.process.wait(TIMEOUT) == 0, served.said()
        assert box.curl("https://allowed.example/").returncode, "closed while it is down"
    finally:
        box.close()


def test_another_container_goes_out_by_it(served):
    folder = served.lab.folder / "p"  # podman wants no more than 50 characters
    folder.mkdir()
    engine = Podman(served, folder)
    try:
        done = engine.run(["curl", "-sS", "https://allowed.example/"])
        assert done.stdout.startswith("allowed.example at"), (done, served.said())
        assert engine.run(["curl", "-sS", "https://denied.example/"]).returncode
        served.ask("stop", "sallyport")
        assert "no gateway answers" in engine.run(["true"]).stderr
    finally:
        engine.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_archive_loads_and_is_small(image):
    assert run("podman", "rmi", "-f", image.name, env=image.environment, timeout=300).returncode == 0
    done = run("podman", "load", "-q", "-i", image.archive, env=image.environment, timeout=300)
    assert done.returncode == 0 and image.name in done.stdout, done
    sizes = [int(run("podman", "image", "inspect", "--format", "{{.Size}}", name, env=image.environment).stdout) for name in
             ("localhost/base", image.name)]
    print(f"base {sizes[0] / 1e6:.0f} MB, image {sizes[1] / 1e6:.0f} MB")
    assert sizes[1] - sizes[0] < 60e6, "more than the program and its libraries"
