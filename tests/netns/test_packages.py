"""What is installed: the unit and its neighbours, the Debian package from build to purge, logrotate, and the container image."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import ROOT, TIMEOUT, missing_programs, wait_until
from package_fixtures import package  # noqa: F401

PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "systemd/sallyport.service"


def need(*programs):
    missing = missing_programs(*programs)
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)} (scripts/install-deps package)")


def run(*command, **options):
    return subprocess.run(list(map(str, command)), text=True, capture_output=True, timeout=options.pop("timeout", TIMEOUT), **options)


def unit_values(key):
    """All values of a key of the unit, in order."""
    return [line.partition("=")[2].split() for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]


# --- the unit --------------------------------------------------------------------------------------------------------

def test_the_unit_exposes_little():
    need("systemd-analyze")
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=30", UNIT)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_unit_is_understood(lab, tmp_path):
    need("systemd-analyze")
    there = tmp_path / "sallyport.service"
    there.write_text(UNIT.read_text().replace("/usr/bin/sallyport", str(lab.binary)))
    done = run("systemd-analyze", "verify", "--man=no", there)
    assert done.returncode == 0 and "sallyport.service" not in done.stderr, done.stderr


def test_what_the_unit_calls_is_there(lab):
    commands = [words for key in ("ExecStart", "ExecReload") for words in unit_values(key)]
    assert commands
    for program, command, *_ in commands:
        assert program == "/usr/bin/sallyport"
        assert run(lab.binary, command, "--help").returncode == 0
    if unit_values("WatchdogSec"):
        assert b"WATCHDOG=1" in Path(lab.binary).read_bytes()


def test_the_gateway_works_with_no_more_rights_than_the_unit_leaves(make_gateway):
    """Capabilities, no new privileges, and /proc/sys read-only but for the network's: as systemd sets it up."""
    kept = [name.removeprefix("CAP_").lower() for name in unit_values("CapabilityBoundingSet")[0]]
    assert unit_values("ProtectKernelTunables") == [["yes"]] and unit_values("ReadWritePaths") == [["/proc/sys/net"]]
    strict = make_gateway(start=False)
    plain = strict.command
    assert unit_values("ProtectProc") == [["ptraceable"]]
    story = "mount -t proc -o hidepid=ptraceable proc /proc && mount --bind /proc/sys /proc/sys && mount --bind /proc/sys/net /proc/sys/net && " \
            "mount -o remount,ro,bind /proc/sys && exec \"$@\""
    strict.command = lambda: ["unshare", "--mount", "sh", "-c", story, "sh", "setpriv", "--bounding-set",
                              ",".join(["-all", *(f"+{name}" for name in kept)]), "--inh-caps", "-all", "--no-new-privs", "--",
                              *plain()]
    strict.start()
    box = strict.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    assert box.output("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").strip() == "0"  # a setting it makes in there
    before = strict.kill_worker()
    strict.await_new_worker(before, 10)
    wait_until(lambda: strict.ask("verify", box.id).returncode == 0, "the new worker to serve it")
    strict.kill()
    strict.start()
    wait_until(lambda: strict.log().count("ready: ") == 2, "the second start")
    assert box.curl("https://allowed.example/").returncode == 0  # found again without the client's descriptors


def test_a_worker_that_hangs_is_killed_without_the_right_to_kill(make_gateway):
    """The unit has no CAP_KILL, and the worker is another user."""
    strict = make_gateway(start=False)
    plain = strict.command
    strict.command = lambda: ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-all", "--", *plain()]
    strict.start()
    before = strict.status()
    os.kill(before["worker"], 19)  # SIGSTOP: it takes no configuration, and does not end
    strict.process.terminate()     # the drain waits for it in vain; a second one does not
    wait_until(lambda: not strict.control.exists(), "the begin of the drain")
    strict.process.terminate()
    assert strict.process.wait(20) == 0
    wait_until(lambda: not os.path.exists(f"/proc/{before['worker']}"), "the end of the worker")


# --- sysusers, tmpfiles, the default policy --------------------------------------------------------------------------

def test_a_user_for_the_worker(tmp_path):
    need("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", PACKAGING / "systemd/sallyport.sysusers")
    assert done.returncode == 0, done.stderr
    [user] = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("sallyport:")]
    assert int(user[2]) != 0 and user[6].endswith("nologin")


def test_folders(tmp_path):
    need("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tmp_path / "etc")
    done = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", PACKAGING / "systemd/sallyport.tmpfiles")
    assert done.returncode == 0, done.stderr
    modes = {path: oct((tmp_path / path).stat().st_mode & 0o7777) for path in ("run/sallyport", "var/lib/sallyport", "var/log/sallyport")}
    assert modes == {"run/sallyport": "0o755", "var/lib/sallyport": "0o700", "var/log/sallyport": "0o750"}


def test_the_default_policy_denies_everything(lab):
    file = PACKAGING / "etc/sallyport.yaml"
    assert run(lab.binary, "policy", "check", file).returncode == 0
    head, example, tail = re.split(r"(?=^# policies:)|(?=^# A container)", file.read_text(), flags=re.M)
    shown = head + re.sub(r"^# ?", "", example, flags=re.M) + tail
    there = Path(lab.folder) / "example.yaml"
    there.write_text(shown)  # its commented example is right, too
    done = run(lab.binary, "policy", "check", there)
    assert done.returncode == 0 and "policies:" in shown, done.stderr
    denied = run(lab.binary, "policy", "test", "-c", there, "--policy", "agents", "https://api.example.org.invalid/")
    assert denied.returncode == 1


def test_with_the_default_policy_a_container_gets_nothing(make_gateway):
    text = (PACKAGING / "etc/sallyport.yaml").read_text()
    gateway = make_gateway(start=False)
    gateway.config.write_text(text)
    gateway.start()
    box = gateway.container()
    assert box.curl("https://allowed.example/").returncode != 0
    gateway.await_event(lambda audit: audit.dns_denied() == {"allowed.example"})


# --- logrotate -------------------------------------------------------------------------------------------------------

def test_logrotate_loses_no_event(gateway, tmp_path):
    need("logrotate")
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    bin = tmp_path / "bin"
    bin.mkdir()
    asked = tmp_path / "asked"
    (bin / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{asked}\nkill -USR1 {gateway.process.pid}\n')
    (bin / "systemctl").chmod(0o755)
    text = (PACKAGING / "etc/sallyport.logrotate").read_text()
    assert "copytruncate" not in re.sub(r"#.*", "", text)
    config = tmp_path / "logrotate.conf"
    config.write_text(text.replace("/var/log/sallyport", str(gateway.folder)))
    before = gateway.audit_path.stat().st_ino
    done = run("logrotate", "--force", "--state", tmp_path / "state", config, env={**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert asked.read_text().split() == ["kill", "--kill-who=main", "--signal=SIGUSR1", "sallyport.service"]
    wait_until(lambda: gateway.audit_path.exists() and gateway.audit_path.stat().st_ino != before, "a new audit file")
    assert box.curl("https://allowed.example/").returncode == 0
    gateway.stop()
    rotated = Path(f"{gateway.audit_path}.1")
    numbers = [json.loads(line)["event"]["sequence"] for file in (rotated, gateway.audit_path) for line in file.read_text().splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and gateway.audit_path.stat().st_size > 0
    assert gateway.audit_path.stat().st_mode & 0o777 == 0o600


# --- the Debian package ----------------------------------------------------------------------------------------------

def in_copy_of_this_system(folder, story):
    """A shell in this root file system, with every change kept in memory and thrown away."""
    script = f"""set -e
mount -t tmpfs none {folder}
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
mount --bind {folder}/deb {folder}/root/mnt 2>/dev/null || true
mount --bind /proc {folder}/root/proc
mount -t tmpfs none {folder}/root/run
chroot {folder}/root sh -c 'printf "#!/bin/sh\\nexit 101\\n" >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d'
{story}"""
    done = run("unshare", "--mount", "--net", "sh", "-c", script, timeout=300)
    if "overlay" in done.stderr and done.returncode:
        pytest.skip(f"no overlay over this root file system: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_installs_works_and_is_purged_without_a_trace(package, tmp_path):
    story = f"""
cp {package} {tmp_path}/root/tmp/sallyport.deb
cd {tmp_path}/root
list() {{ (cd {tmp_path}/upper && find . -not -path './var/lib/dpkg*' -not -path './var/log/dpkg*' -not -path './tmp*' -not -path './etc/*-' \\
    -not -path './var/lib/systemd*' -not -path './var/cache*' -not -path './var/log/*.log' -not -name .pwd.lock | sort); }}
list >{tmp_path}/before
chroot . dpkg -i /tmp/sallyport.deb
echo "--- installed"
chroot . /usr/bin/sallyport --version
chroot . /usr/bin/sallyport policy check /etc/sallyport/sallyport.yaml
chroot . sh -c "grep ^sallyport: /etc/passwd"
chroot . sh -c "ls -l /lib/systemd/system/sallyport.service /etc/logrotate.d/sallyport /usr/lib/tmpfiles.d/sallyport.conf"
chroot . sh -c "zcat /usr/share/man/man8/sallyport.8.gz /usr/share/man/man5/sallyport.yaml.5.gz | wc -l"
chroot . sh -c "mkdir -p /var/lib/sallyport /var/log/sallyport && touch /var/lib/sallyport/a.json /var/log/sallyport/audit.jsonl"
chroot . dpkg -r sallyport
echo "--- removed"
chroot . sh -c "test ! -e /usr/bin/sallyport && test -e /etc/sallyport/sallyport.yaml && test -e /var/log/sallyport/audit.jsonl"
chroot . dpkg -P sallyport
echo "--- purged"
list >{tmp_path}/after
diff {tmp_path}/before {tmp_path}/after | grep '^>' || true
"""
    out = in_copy_of_this_system(tmp_path, story)
    installed, purged = out.partition("--- installed")[2].partition("--- removed")[0], out.partition("--- purged")[2]
    assert "sallyport " in installed and "sallyport:x:" in installed
    # The user's entry stays in files that others share, as Debian does it; nothing of ours does.
    left = [line[2:] for line in purged.split("\n") if line.startswith("> ")]
    assert not [path for path in left if "sallyport" in path], left
    assert not [path for path in left if path not in ("./etc", "./etc/passwd", "./etc/group", "./etc/shadow", "./etc/gshadow")
                and "/systemd/" not in path and os.path.isfile("/" + path)], left


def test_what_is_in_the_package(package):
    listed = run("dpkg-deb", "--contents", package).stdout
    paths = {line.split()[5]: line.split()[:2] for line in listed.splitlines()}
    for path in ("./usr/bin/sallyport", "./lib/systemd/system/sallyport.service", "./usr/lib/sysusers.d/sallyport.conf",
                 "./usr/lib/tmpfiles.d/sallyport.conf", "./etc/logrotate.d/sallyport", "./etc/sallyport/sallyport.yaml",
                 "./usr/share/man/man8/sallyport.8.gz", "./usr/share/man/man5/sallyport.yaml.5.gz"):
        assert path in paths, listed
    assert not [path for path, (mode, _) in paths.items() if "s" in mode or "t" in mode], "setuid, setgid or sticky"
    fields = run("dpkg-deb", "--field", package, "Depends").stdout
    for library in ("libuv1", "libnftnl11", "libseccomp2", "libcap-ng0", "libssl3"):
        assert library in fields
