"""
A machine with a real systemd: pid 1 of namespaces of its own, over this system's files. Every change stays in memory and goes with it.
Its network is the lab's "host", so it reaches the origins.

Nothing that this system starts is started there, and nothing gets out: settings of the kernel are read-only but for those of its own
network, devices are the harmless ones, its cgroups are below one that is removed at the end.
"""
import os
import re
import subprocess
import threading

import pytest

from daemon import Container
from lab import TIMEOUT, missing_programs, wait_until

SYSTEMD = "/lib/systemd/systemd"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# $1: an empty folder, $2: the terminal that is its console. What comes before `boot` is done outside of its namespaces, and undone.
START = r"""set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
cd "$1"
mkdir cgroup upper work root
mount -t cgroup2 none cgroup
cgroup=cgroup/sallyport-lab-$$
mkdir $cgroup
cleanup() { find $cgroup -depth -type d -exec rmdir {} +; }
trap cleanup EXIT
export -f boot
(echo $BASHPID >$cgroup/cgroup.procs && exec unshare --fork --kill-child --pid --mount --uts --ipc --cgroup bash -ec 'boot "$1"' boot "$2")
"""

BOOT = r"""boot() {
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
for folder in run tmp dev; do mount -t tmpfs -o mode=755 none $folder; done
chmod 1777 tmp
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
touch dev/console
mount --bind "$1" dev/console
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
rm -rf etc/systemd/system/* etc/sallyport var/lib/sallyport var/log/sallyport var/log/journal usr/sbin/policy-rc.d
for unit in systemd-sysctl systemd-modules-load systemd-udevd systemd-udev-trigger systemd-logind systemd-resolved systemd-timesyncd; do
    ln -s /dev/null etc/systemd/system/$unit.service
done
for unit in dev-hugepages sys-kernel-debug sys-kernel-tracing sys-kernel-config sys-fs-fuse-connections; do
    ln -s /dev/null etc/systemd/system/$unit.mount
done
: >etc/machine-id
: >etc/fstab
mkdir old
pivot_root . old
umount -l /old
rmdir /old
mount --make-rshared /
exec env -i container=lab PATH=$PATH /lib/systemd/systemd --unit=multi-user.target
}
"""


class Inside(Container):
    """A container of that machine, as it sees it by the number `pid_there`."""

    def __init__(self, machine):
        self.lab = machine.lab
        self.pids = False
        self.resolv_conf = self.lab.folder / "resolv.conf"
        self.resolv_conf.write_text("nameserver 192.0.2.53\n")
        self.holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *machine.line(
            "unshare", "--net", "sh", "-c", "echo $$; exec sleep infinity")], stdout=subprocess.PIPE, text=True)
        self.pid_there = int(self.holder.stdout.readline())
        self.pid = machine.outer_pid(self.pid_there)

    def close(self):
        os.kill(self.pid, 9)
        self.holder.wait()


class Machine:
    def __init__(self, lab, folder):
        self.lab, self.said = lab, b""
        self.containers = []
        root = folder / "machine"
        root.mkdir()
        self.console, terminal = os.openpty()
        self.outer = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *lab.host.enter(["unshare", "--mount", "bash", "-c", BOOT + START, "bash", root,
                                                               os.ttyname(terminal)])],
            stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env={"PATH": PATH})
        os.close(terminal)
        threading.Thread(target=self._listen, daemon=True).start()
        self.init = None
        try:
            wait_until(self._booted, "the boot of systemd", 60)
        except (TimeoutError, ChildProcessError):
            self.close()
            raise

    def _listen(self):
        try:
            while text := os.read(self.console, 1 << 16):
                self.said += text
        except OSError:
            pass  # the last one who had it open is gone

    def _booted(self):
        if self.outer.poll() is not None:
            raise ChildProcessError(self.said.decode(errors="replace"))
        self.init = self.init or self._find_init()
        return self.init and self.systemctl("is-system-running").stdout.strip() in ("running", "degraded")

    def _find_init(self):
        """pid 1 of the machine, once it is systemd."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe").endswith("/systemd/systemd") and self._below(int(pid), self.outer.pid):
                    return int(pid)
            except OSError:
                continue
        return None

    @staticmethod
    def _below(pid, ancestor):
        while pid > 1:
            if pid == ancestor:
                return True
            with open(f"/proc/{pid}/stat") as stat:
                pid = int(stat.read().rpartition(")")[2].split()[1])
        return False

    def outer_pid(self, pid_there):
        """Our number of a process in there."""
        ours = os.readlink(f"/proc/{self.init}/ns/pid")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/status") as status:
                    numbers = re.search(r"^NSpid:\s*(.*)$", status.read(), re.M)[1].split()
                if int(numbers[-1]) == pid_there and len(numbers) > 1 and os.readlink(f"/proc/{pid}/ns/pid") == ours:
                    return int(pid)
            except OSError:
                continue
        raise ProcessLookupError(pid_there)

    def line(self, *argv):
        """The command line that runs this in there."""
        return ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", "env", "-i",
                f"PATH={PATH}", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *map(str, argv)]

    def run(self, *argv, **options):
        return subprocess.run(self.line(*argv), text=True, errors="replace", capture_output=True,
                              **{"timeout": TIMEOUT, "stdin": subprocess.DEVNULL, **options})

    def ok(self, *argv, **options):
        done = self.run(*argv, **options)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def systemctl(self, *argv):
        return self.run("systemctl", *argv)

    def show(self, name, unit="sallyport.service"):
        """A property of a unit."""
        return self.ok("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit="sallyport.service"):
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout

    def path(self, path):
        """A file of the machine, from here."""
        return f"/proc/{self.init}/root/{path}"

    def container(self):
        self.containers.append(Inside(self))
        return self.containers[-1]

    def close(self):
        for container in self.containers:
            container.close()
        if self.init:
            os.kill(self.init, 9)
        else:
            self.outer.terminate()
        self.outer.wait()
        os.close(self.console)


def boot(lab, folder):
    """A Machine, or a skip that says why there is none."""
    missing = missing_programs("systemctl", "journalctl", "pivot_root", "unshare")
    if missing or not os.path.exists(SYSTEMD):
        pytest.skip(f"not installed: systemd {' '.join(missing)} (scripts/install-deps package)")
    try:
        return Machine(lab, folder)
    except ChildProcessError as why:
        pytest.skip(f"systemd does not boot in namespaces of this machine: {str(why).strip()[-300:]}")
