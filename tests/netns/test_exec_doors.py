"""The doors besides the network: each of them shut, for root and for an ordinary user."""
import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import pytest

from enclosed import ENVIRONMENT, identity
from exec_fixtures import enclosed  # noqa: F401

LISTENER = """
import socket, sys
s = socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[2]) if len(sys.argv) > 2 else socket.SOCK_STREAM)
s.bind(sys.argv[1])
if s.type == socket.SOCK_STREAM: s.listen()
print("ready", flush=True)
sys.stdin.read()
"""
CONNECT = """
import socket, sys
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    s = socket.socket(socket.AF_UNIX, kind)
    try:
        s.connect({path!r})
        print("reached")
    except OSError as problem:
        print(type(problem).__name__)
"""
OPEN = """
import errno, os, sys
try:
    os.close(os.open({path!r}, {flags}))
    print("opened")
except OSError as problem:
    print(errno.errorcode[problem.errno])
"""
CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
got = libc.syscall(*[ctypes.c_long(a) for a in {arguments!r}])
print(errno.errorcode[ctypes.get_errno()] if got < 0 else "done")
"""
needs_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls of x86-64")


def opening(enclosed, path, flags="os.O_WRONLY", **more):
    return enclosed.python(OPEN.format(path=str(path), flags=flags), **more)


def reaching(enclosed, path, **more):
    return "reached" in enclosed.python(CONNECT.format(path=str(path)), **more)


# --- other processes and namespaces -------------------------------------------------------------------------------

@pytest.mark.smoke
def test_only_processes_of_the_enclosure_are_seen(enclosed):
    pids = enclosed.run("sh", "-c", "ls -d /proc/[0-9]*").stdout.split()
    assert len(pids) <= 3 and "/proc/1" in pids
    assert enclosed.run("cat", "/proc/1/comm").stdout.strip() == "sallyport-init"


@pytest.mark.parametrize("namespace", ["net", "mnt", "pid", "ipc", "uts", "user"])
def test_every_namespace_is_its_own(enclosed, namespace):
    inside = enclosed.run("readlink", f"/proc/self/ns/{namespace}").stdout.strip()
    assert inside.startswith(f"{namespace}:[") and inside != os.readlink(f"/proc/self/ns/{namespace}")


@pytest.mark.parametrize("what", [["-n"], ["-m"], ["-U"], ["-p"], ["-i"], ["-u"], ["-a"]])
def test_nsenter_by_pid_leads_nowhere(enclosed, what):
    """The first process inside is our own init, and it cannot be entered either: it owns the sealed namespaces."""
    assert enclosed.run("nsenter", "-t", "1", *what, "--", "true").returncode != 0


def test_a_handle_of_the_host_namespace_cannot_be_entered(enclosed):
    """A namespace file that somebody bound into the file system is covered, and setns(2) would fail anyway."""
    name = f"sallyport-test-{uuid.uuid4().hex[:8]}"
    handle = Path("/tmp", name)
    handle.touch(mode=0o666)
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", handle], check=True)
    try:
        assert enclosed.run("nsenter", f"--net={handle}", "--", "true").returncode != 0
        assert enclosed.run("stat", "-f", "-c", "%T", handle).stdout.strip() != "nsfs"
    finally:
        subprocess.run(["umount", handle], check=True)
        handle.unlink()


def test_ptrace_of_an_outside_process_is_impossible(enclosed):
    target = enclosed.outside("import sys; print('ready', flush=True); sys.stdin.read()")
    try:
        attach = CALL.format(arguments=[101, 16, target.pid, 0, 0])  # PTRACE_ATTACH
        assert enclosed.python(attach) in ("ESRCH", "EPERM")
        assert opening(enclosed, f"/proc/{target.pid}/mem", "os.O_RDWR") == "ENOENT"
        assert enclosed.run("kill", str(target.pid)).returncode != 0
        assert target.poll() is None
    finally:
        target.communicate()


@pytest.mark.parametrize("file", ["mem", "environ", "root/etc/passwd", "ns/net", "ns/mnt", "fd/0", "exe", "maps"])
def test_init_is_not_open_to_the_command(enclosed, file):
    assert opening(enclosed, f"/proc/1/{file}", "os.O_RDONLY") == "EACCES"


@pytest.mark.smoke
def test_signals_do_not_leave(enclosed):
    """kill(0) and kill(-1) reach the enclosure alone, not the script that ran it."""
    for target in ("0", "-1"):
        script = " ".join(enclosed.line("sh", "-c", f"'kill -9 -- {target}'")[len(identity(enclosed.user)):])
        outer = subprocess.run([*identity(enclosed.user), "sh", "-c", f"{script}; echo survived"], capture_output=True,
                               text=True, env=ENVIRONMENT, cwd=enclosed.folder, timeout=60)
        assert "survived" in outer.stdout
    assert enclosed.run("sh", "-c", "kill -9 1; echo alive").stdout == "alive\n"


@pytest.mark.parametrize("command", ["nft flush ruleset", "ip link set lo down", "ip link add sally type dummy",
                                     "ip route flush table all", "hostname evil"])
def test_no_capability_over_the_sealed_namespace(enclosed, command):
    assert enclosed.run(*command.split()).returncode != 0


def test_ordinary_users_have_no_capability(enclosed):
    status = enclosed.run("cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    if enclosed.user:
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


# --- the kernel's files -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
                                  "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
                                  "/proc/irq/default_smp_affinity", "/sys/power/state",
                                  "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/cpu/release_agent", "/sys/kernel/uevent_helper"])
def test_the_kernel_is_not_configured_from_inside(enclosed, path):
    if not os.path.exists(path):
        pytest.skip("not on this kernel")
    assert opening(enclosed, path) in ("EROFS", "EACCES", "ENOENT")


@pytest.mark.parametrize("command", [
    "mount -t proc proc /mnt", "unshare -Urpf mount -t proc proc /mnt", "unshare -Urpf --mount-proc true",
    "unshare -Urn mount -t sysfs sysfs /mnt", "mount -t debugfs none /mnt", "mount -t devtmpfs none /mnt",
    "umount -l /proc", "umount /proc/sys", "umount /run", "umount /dev", "umount /etc/resolv.conf",
    "unshare -Urm umount -l /run", "unshare -Urm umount -l /proc/sys", "mount -o remount,bind,rw /proc/sys",
    "unshare -Urm mount -o remount,bind,rw /proc/sys", "mount --move /run /mnt", "mount --bind / /mnt",
    "unshare -Urm mount --bind / /mnt", "unshare -Urm mount -t overlay -o lowerdir=/run:/etc none /mnt"])
def test_masks_cannot_be_taken_off(enclosed, command):
    assert enclosed.run(*command.split()).returncode != 0


@pytest.mark.smoke
@pytest.mark.parametrize("command", ["unshare -C true", "unshare -UrC true", "unshare -UrCm mount -t cgroup2 none /mnt",
                                     "unshare -Urm mount -t cgroup2 none /mnt", "mount -t cgroup2 none /mnt",
                                     "unshare -Urm mount -t cgroup -o none,name=sallyport none /mnt"])
def test_cgroups_cannot_be_mounted_anew(enclosed, command):
    """Writable, they would kill or freeze processes outside."""
    assert enclosed.run(*command.split()).returncode != 0


def test_a_cgroup_namespace_cannot_be_had_by_clone(enclosed):
    """clone3(2) keeps its flags where a filter could not read them."""
    clone = "class A(ctypes.Structure): _fields_ = [(str(i), ctypes.c_uint64) for i in range(8)]\n"
    story = "import ctypes, errno, os\nlibc = ctypes.CDLL(None, use_errno=True)\n" + clone + \
        "for flags in 0x02000000, 0x12000000:\n" \
        "    got = libc.syscall(435, ctypes.byref(A(flags, 0, 0, 0, 17, 0, 0, 0)), 64)\n" \
        "    if got == 0: os._exit(0)\n" \
        "    print(errno.errorcode[ctypes.get_errno()] if got < 0 else 'made')"
    assert set(enclosed.python(story).split()) <= {"EPERM", "ENOSPC"}


@pytest.mark.parametrize("command", ["unshare -Ur id -u", "unshare -Urn true", "unshare -Urm mount -t tmpfs none /mnt",
                                     "unshare -Urpfmiu true"])
def test_user_namespaces_nest(enclosed, command):
    """What sandboxes of browsers and of build tools need."""
    result = enclosed.run(*command.split())
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_bubblewrap(enclosed):
    for more in (["--unshare-user", "--unshare-pid", "--unshare-net", "--dev", "/dev"], ["--unshare-user", "--tmpfs", "/tmp"]):
        result = enclosed.run("bwrap", "--ro-bind", "/", "/", *more, "echo", "ran")
        assert result.stdout == "ran\n", result.stderr


def test_another_procfs_is_covered(enclosed):
    """As a chroot has one: its processes are those of the host."""
    there = enclosed.folder / "proc"
    there.mkdir()
    there.chmod(0o755)
    subprocess.run(["mount", "-t", "proc", "proc", there], check=True)
    try:
        assert (there / "1").exists()
        assert enclosed.run("ls", "-A", there).stdout == ""
    finally:
        subprocess.run(["umount", there], check=True)


# --- devices ------------------------------------------------------------------------------------------------------

def test_devices_of_consoles_and_disks_are_not_there(enclosed):
    listed = set(enclosed.run("ls", "/dev").stdout.split())
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout", "stderr"} <= listed
    assert not {"kmsg", "mem", "port", "vsock", "uinput", "input", "infiniband", "vhost-vsock", "loop-control", "tty1"} & listed
    kinds = enclosed.run("find", "/dev", "-type", "b").stdout
    assert kinds == ""


def test_devices_work_in_dev_and_nowhere_else(enclosed):
    assert enclosed.run("sh", "-c", "echo > /dev/null && head -c 1 /dev/urandom | wc -c").stdout.strip() == "1"
    node = enclosed.folder / "null"
    subprocess.run(["mknod", "-m", "666", node, "c", "1", "3"], check=True)
    assert opening(enclosed, node) == "EACCES"
    assert enclosed.run("mknod", enclosed.folder / "disk", "b", "8", "0").returncode != 0


def test_terminals_shared_memory_and_queues_are_its_own(enclosed):
    mark = Path("/dev/shm", f"sallyport-test-{uuid.uuid4().hex[:8]}")
    mark.write_text("")
    try:
        assert mark.name not in enclosed.run("ls", "/dev/shm").stdout
    finally:
        mark.unlink()
    assert enclosed.run("ls", "/dev/pts").stdout.split() == ["ptmx"]
    assert "0" in enclosed.python("import os, pty; a, b = pty.openpty(); print(os.ttyname(b))")
    assert enclosed.run("sh", "-c", "echo x > /dev/shm/x && cat /dev/shm/x").stdout == "x\n"


# --- unix sockets -------------------------------------------------------------------------------------------------

@pytest.fixture
def outside_socket(enclosed):
    """Listens outside at a path (made with its folder); returns a function."""
    listeners = []

    def listen(path, *kind):
        listener = enclosed.outside(LISTENER, path, *kind)
        assert listener.first_line == "ready"
        listeners.append(listener)
        return path

    yield listen
    for listener in listeners:
        listener.communicate()


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_socket_among_other_files_is_masked(enclosed, outside_socket, kind):
    (enclosed.folder / "note").write_text("still here")
    path = outside_socket(enclosed.folder / "service.sock", kind)
    assert not reaching(enclosed, path)
    assert enclosed.run("cat", enclosed.folder / "note").stdout == "still here"
    assert reaching(enclosed, path, options=["-q", "--policy", "airgapped", "--keep", path])


def test_a_socket_is_masked_in_every_mount_that_shows_it(enclosed, outside_socket):
    original, again = enclosed.folder / "a", enclosed.folder / "b"
    for folder in (original, again):
        folder.mkdir()
        os.chown(folder, enclosed.user or 0, enclosed.user or 0)
    (original / "note").write_text("")
    subprocess.run(["mount", "--bind", original, again], check=True)
    try:
        outside_socket(original / "sock")
        assert not reaching(enclosed, original / "sock")
        assert not reaching(enclosed, again / "sock")
    finally:
        subprocess.run(["umount", again], check=True)


def test_a_socket_bound_by_a_relative_path_is_masked(enclosed, outside_socket):
    (enclosed.folder / "note").write_text("")
    outside_socket("relative.sock")
    assert not reaching(enclosed, enclosed.folder / "relative.sock", cwd="/")


def test_a_kept_socket_in_a_masked_folder(enclosed, outside_socket):
    folder = enclosed.folder / "daemon"
    folder.mkdir()
    os.chown(folder, enclosed.user or 0, enclosed.user or 0)
    wanted, other = outside_socket(folder / "wanted"), outside_socket(folder / "other")
    options = ["-q", "--policy", "airgapped", "--keep", wanted]
    assert reaching(enclosed, wanted, options=options)
    assert not reaching(enclosed, other, options=options)


def test_a_socket_that_is_mounted_is_masked(enclosed):
    """As docker.sock in a container: its server is in another network namespace, /proc/net/unix does not have it."""
    server, mounted = enclosed.folder / "server.sock", enclosed.folder / "docker.sock"
    mounted.touch()
    line = ["unshare", "-n", "python3", "-c", LISTENER, str(server)]
    listener = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout.readline() == "ready\n"
        server.chmod(0o777)
        subprocess.run(["mount", "--bind", server, mounted], check=True)
        assert not reaching(enclosed, mounted)
    finally:
        subprocess.run(["umount", mounted])
        listener.communicate()


def test_sockets_of_a_mounted_tmpfs_are_masked(enclosed):
    """The /run of the machine in a container."""
    run = enclosed.folder / "host-run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", run], check=True)
    (run / "engine").mkdir()
    path = run / "engine" / "engine.sock"
    (path.parent / "config").write_text("text")
    listener = subprocess.Popen(["unshare", "-n", "python3", "-c", LISTENER, str(path)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout.readline() == "ready\n"
        path.chmod(0o777)
        assert not reaching(enclosed, path)
        assert enclosed.run("cat", path.parent / "config").stdout == "text"
    finally:
        listener.communicate()
        subprocess.run(["umount", run], check=True)


def test_abstract_sockets_are_out_of_reach(enclosed, outside_socket):
    name = f"sallyport-test-{uuid.uuid4().hex[:8]}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)
    listener.listen()
    assert not reaching(enclosed, "\0" + name)


@pytest.mark.parametrize("name", ["docker.sock", "sallyport-test.sock", "sallyport-test/sock", "dbus/system_bus_socket-test"])
def test_run_is_rebuilt_without_sockets(user, enclosed, name):
    """Also what appears there later: the folder is another one."""
    path = Path("/run", name)
    made = [folder for folder in [path.parent] if not folder.exists()]
    if path.exists():
        pytest.skip(f"{path} is in use on this machine")
    for folder in made:
        folder.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()
        assert not reaching(enclosed, path)
        assert not reaching(enclosed, f"/var/run/{name}")
        assert reaching(enclosed, path, options=["-q", "--policy", "airgapped", "--keep", path])
    finally:
        path.unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def test_what_appears_in_run_later_is_not_seen(enclosed):
    mark = Path("/run", f"sallyport-test-{uuid.uuid4().hex[:8]}")
    process = enclosed.start("sh", "-c", f"echo go; read line; test -e {mark} && echo seen || echo unseen", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "go\n"
    try:
        mark.touch()
        out, _ = process.communicate("\n", timeout=60)
        assert out == "unseen\n"
    finally:
        mark.unlink()


def test_run_time_folder_of_the_user(enclosed):
    uid = enclosed.user or 0
    assert enclosed.run("sh", "-c", f"cd /run/user/{uid} && touch x && ls -A").stdout == "x\n"
    elsewhere = enclosed.folder / "runtime"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "bus").touch()
    os.chown(elsewhere, uid, uid)
    env = {"XDG_RUNTIME_DIR": str(elsewhere)}
    assert enclosed.run("ls", "-A", elsewhere, env=env).stdout == ""
    assert (elsewhere / "bus").exists()


def test_tmux_can_be_started_later_and_stays_out_of_reach(enclosed):
    folder = Path(f"/tmp/tmux-{enclosed.user or 0}")
    process = enclosed.start("sh", "-c", f"echo go; read line; ls -A {folder}", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "go\n"
    mark = folder / "sallyport-test"
    mark.touch()
    try:
        out, _ = process.communicate("\n", timeout=60)
        assert out == ""
    finally:
        mark.unlink()


def test_variables_that_name_sockets_are_cleared(enclosed):
    named = {"SSH_AUTH_SOCK": "/run/user/0/agent", "DOCKER_HOST": "unix:///run/docker.sock", "TMUX": "/tmp/tmux-0/default,1,0",
             "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/0/bus", "DISPLAY": ":0", "KEEPS": "this"}
    lines = enclosed.run("env", env=named).stdout.splitlines()
    assert "KEEPS=this" in lines and "SALLYPORT=1" in lines
    assert not [line for line in lines if line.split("=")[0] in set(named) - {"KEEPS"}]
    kept = enclosed.run("env", env={"DOCKER_HOST": "unix:///tmp"}, options=["-q", "--policy", "airgapped", "--keep", "/tmp"])
    assert "DOCKER_HOST=unix:///tmp" in kept.stdout.splitlines()


# --- system calls -------------------------------------------------------------------------------------------------

@pytest.mark.smoke
@pytest.mark.parametrize("family", [4, 5, 9, 17, 21, 30, 31, 38, 40, 43, 44])
def test_socket_families_that_pass_round_the_network_namespace(enclosed, family):
    for call in (f"socket.socket({family}, 1)", f"socket.socket({family}, 5)", f"socket.socketpair({family}, 1)"):
        assert enclosed.python(f"import socket, errno\ntry: {call}\nexcept OSError as e: print(errno.errorcode[e.errno])") \
            == "EAFNOSUPPORT"


def test_socket_families_that_stay(enclosed):
    story = "import socket\nfor family in (1, 2, 10): socket.socket(family, 1)\nsocket.socket(16, 3)\nsocket.socketpair()\nprint('made')"
    assert enclosed.python(story) == "made"


@needs_x86_64
@pytest.mark.parametrize("arguments, answer", [
    ((41, 1 << 32 | 40, 1, 0), "EAFNOSUPPORT"),     # socket(AF_VSOCK) with a bit the kernel ignores
    ((41, 2, 1, 256), "EPROTONOSUPPORT"),           # IPPROTO_SMC
    ((425, 1, 0), "ENOSYS"), ((426, 0, 0, 0, 0, 0, 0), "ENOSYS"), ((427, 0, 0, 0, 0), "ENOSYS"),  # io_uring
    ((16, 0, 0x5412, 0), "EPERM"), ((16, 0, 7 << 32 | 0x5412, 0), "EPERM"), ((16, 0, 0x541C, 0), "EPERM"),  # TIOCSTI, TIOCLINUX
    ((250, 0, 0, 0), "ENOSYS"), ((248, 0, 0, 0), "ENOSYS"), ((249, 0, 0, 0), "ENOSYS"),  # keys: upcalls run outside
    ((-1,), "ENOSYS"), ((321, 0, 0, 0), "EPERM"), ((304, 0, 0, 0), "EPERM"),  # bpf, open_by_handle_at
])
def test_system_calls_that_are_refused(enclosed, arguments, answer):
    assert enclosed.python(CALL.format(arguments=list(arguments))) == answer


@needs_x86_64
def test_the_x32_abi_is_shut(enclosed):
    story = CALL.format(arguments=[0x40000000 | 41, 40, 1, 0])
    assert enclosed.run("python3", "-c", story).returncode == 128 + 31  # SIGSYS


@needs_x86_64
def test_the_32_bit_abi_is_shut(enclosed):
    """socketcall(2) hides its arguments from a filter. Machine code: mov eax, 20 (getpid of i386); int 0x80; ret."""
    story = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
print("passed")
"""
    result = enclosed.run("python3", "-c", story)
    assert result.returncode == 128 + 31 and result.stdout == ""


# --- what is handed over ------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_open_descriptors_do_not_come_along(enclosed):
    folder = os.open("/", os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        result = enclosed.run("sh", "-c", "ls /proc/self/fd", pass_fds=[folder])
    finally:
        os.close(folder)
    assert sorted(result.stdout.split()) == ["0", "1", "2", "3"]  # 3 is ls reading the folder


def test_a_network_socket_as_input_is_refused(enclosed):
    """It belongs to the network outside: connect(AF_UNSPEC), then connect() to anywhere."""
    for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_DGRAM),
                         (socket.AF_UNIX, socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as network:
            result = enclosed.run("true", stdin=network)
        assert result.returncode == 125 and "standard input" in result.stderr


def test_a_folder_as_input_is_refused(enclosed):
    folder = os.open("/run", os.O_RDONLY)
    try:
        result = enclosed.run("true", stdin=folder)
    finally:
        os.close(folder)
    assert result.returncode == 125 and "standard input" in result.stderr


def test_a_unix_stream_as_input_is_fine(enclosed):
    """Programs that start others talk to them so."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello")
        ours.shutdown(socket.SHUT_WR)
        assert enclosed.run("cat", stdin=theirs).stdout == "hello"


def test_closed_standard_streams_are_filled(enclosed):
    line = " ".join(enclosed.line("sh", "-c", "'ls /proc/self/fd; readlink /proc/self/fd/0'"))
    result = subprocess.run(["sh", "-c", f"{line} <&-"], capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder)
    assert "/dev/null" in result.stdout


def test_a_crash_starts_nothing_outside(enclosed):
    """Where the kernel pipes core dumps into a program, that program would run outside."""
    piped = Path("/proc/sys/kernel/core_pattern").read_text().startswith("|")
    limits = enclosed.python("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert (limits == "(1, 1)") == piped


def test_the_audit_file_cannot_be_rewritten(enclosed):
    path = enclosed.folder / "audit.jsonl"
    options = ["-q", "--policy", "airgapped", "--audit", path]
    assert opening(enclosed, path, options=options) == "EROFS"
    assert enclosed.run("rm", "-f", path, options=options).returncode != 0
    assert path.exists()


def test_resolv_conf_names_the_gateway(enclosed):
    text = enclosed.run("cat", "/etc/resolv.conf").stdout
    assert [line for line in text.splitlines() if line.startswith("nameserver")] == ["nameserver 10.0.2.3", "nameserver fd00::3"]


def test_files_are_as_outside(enclosed):
    outside = Path("/etc/passwd").read_text()
    assert enclosed.run("cat", "/etc/passwd").stdout == outside
    written = enclosed.folder / "written"
    assert enclosed.run("sh", "-c", "echo text > written; id -u; pwd").stdout.split() == [str(enclosed.user or 0), str(enclosed.folder)]
    assert written.read_text() == "text\n" and written.stat().st_uid == (enclosed.user or 0)
