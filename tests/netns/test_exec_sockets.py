"""Unix sockets: what was bound inside can be connected to, what was bound outside cannot, whatever it is called."""
import os
import shutil
import socket
import subprocess
import textwrap
from pathlib import Path

import pytest

from enclosed import ENVIRONMENT, identity
from exec_fixtures import enclosed  # noqa: F401

AIRGAPPED = ["--quiet", "--policy", "airgapped"]

# Binds so that /proc/net/unix shows another name than the one to connect to, or none. argv: how, folder
LISTENER = """
import os, socket, sys
how, folder = sys.argv[1:]
os.chdir(folder)
s = socket.socket(socket.AF_UNIX)
if how == "relative": s.bind("s")
elif how == "renamed": s.bind(folder + "/t"); os.rename("t", "s")
elif how == "linked": s.bind(folder + "/t"); os.link("t", "s"); os.unlink("t")  # as ssh makes a ControlMaster
elif how == "linked elsewhere": os.mkdir("d"); s.bind(folder + "/d/t"); os.link("d/t", "s")
elif how == "by descriptor": s.bind(f"/proc/self/fd/{os.open('.', os.O_RDONLY)}/s")
elif how == "in a moved folder": os.mkdir("d"); s.bind(folder + "/d/s"); os.rename("d", "e"); os.symlink("e/s", "s")
elif how == "with a newline": s.bind(folder + "/a\\nb"); os.symlink("a\\nb", "s")
else: s.bind(folder + "/s")
s.listen()
print("ready", flush=True)
sys.stdin.read()
"""
HELPERS = """
import errno, os, socket, sys, threading
def attempt(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    try:
        s.connect(path)
        return "connected"
    except OSError as problem:
        return errno.errorcode[problem.errno]
def serve(path, kind=socket.SOCK_STREAM, backlog=10):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(path)
    s.listen(backlog)
    return s
"""


def inside(enclosed, story, **more):
    return enclosed.python(HELPERS + textwrap.dedent(story), **more)


def attempt(enclosed, path, **more):
    return inside(enclosed, f"print(attempt({str(path)!r}))", **more)


@pytest.fixture
def folder(enclosed):
    """With another file in it, so that nobody covers it as a folder of sockets."""
    made = enclosed.folder / "place"
    made.mkdir()
    (made / "note").write_text("")
    os.chown(made, enclosed.user or 0, enclosed.user or 0)
    return made


@pytest.fixture
def outside(enclosed):
    started = []

    def listen(how, place, *before):
        line = [*before, *identity(enclosed.user), "python3", "-c", LISTENER, how, str(place)]
        process = subprocess.Popen(line, text=True, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield listen
    for process in started:
        process.communicate()


# --- bound outside ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
@pytest.mark.parametrize("how", ["absolute", "relative", "renamed", "linked", "linked elsewhere", "by descriptor", "in a moved folder",
                                 "with a newline"])
def test_a_socket_outside_is_refused_whatever_its_name(enclosed, outside, folder, how):
    outside(how, folder)
    assert attempt(enclosed, folder / "s") == "ECONNREFUSED"
    assert inside(enclosed, "print(attempt('s'))", cwd=folder) == "ECONNREFUSED"


@pytest.mark.parametrize("before", [["unshare", "--net"], ["unshare", "--mount"]])
def test_a_socket_of_another_namespace_is_refused(enclosed, outside, folder, before):
    """As that of a container, or of a service with a private network."""
    outside("absolute", folder, *before)
    assert attempt(enclosed, folder / "s") == "ECONNREFUSED"


@pytest.mark.smoke
def test_a_socket_made_later_is_refused(enclosed, outside, folder):
    story = HELPERS + f"print('go', flush=True); sys.stdin.readline(); print(attempt({str(folder / 's')!r}))"
    process = enclosed.start("python3", "-c", story, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "go\n"
    outside("absolute", folder)
    out, err = process.communicate("\n", timeout=60)
    assert out == "ECONNREFUSED\n", err


@pytest.mark.parametrize("trick", ["os.rename(theirs, mine)", "os.link(theirs, mine)", "os.symlink(theirs, mine)",
                                   "mine = f'/proc/self/fd/{os.open(theirs, os.O_PATH)}'",
                                   "mine = f'/proc/self/fd/{os.open(os.path.dirname(theirs), os.O_PATH)}/s'",
                                   "mine = '/proc/self/root' + theirs", "mine = '/proc/1/root' + theirs",
                                   "mine = f'/proc/{os.getpid()}/cwd/' + os.path.relpath(theirs)"])
def test_no_other_way_to_name_a_socket_outside(enclosed, outside, folder, trick):
    outside("absolute", folder)
    said = inside(enclosed, f"""
        theirs, mine = {str(folder / 's')!r}, {str(enclosed.folder / 'mine')!r}
        serve({str(enclosed.folder / 'other')!r})
        {trick}
        print(attempt(mine))""")
    assert said in ("ECONNREFUSED", "ELOOP", "EACCES", "ENOENT")


@pytest.mark.smoke
@pytest.mark.parametrize("swap", ["address", "descriptor"])
def test_nothing_can_be_exchanged_while_the_call_is_judged(enclosed, outside, folder, swap):
    """Another thread rewrites the address in memory, or puts another socket in the place of the descriptor."""
    outside("absolute", folder)
    said = inside(enclosed, f"""
        import ctypes, time
        libc = ctypes.CDLL(None, use_errno=True)
        theirs, mine = {str(folder / 's')!r}, {str(enclosed.folder / 'm')!r}
        server = serve(mine)
        address = ctypes.create_string_buffer(110)
        def write(path): ctypes.memmove(address, b"\\1\\0" + path.encode().ljust(108, b"\\0"), 110)
        def client(family=socket.AF_UNIX):
            s = socket.socket(family); s.setblocking(False); return s
        stop, number = time.monotonic() + 2, client().detach()
        def exchange():
            while time.monotonic() < stop:
                if {swap!r} == "address":
                    write(theirs); write(mine)
                else:
                    with client(socket.AF_INET) as other: os.dup2(other.fileno(), number)
                    with client() as other: os.dup2(other.fileno(), number)
        write(theirs)
        thread = threading.Thread(target=exchange)
        thread.start()
        reached, tries = 0, 0
        while time.monotonic() < stop:
            if {swap!r} == "address":
                with client() as other: os.dup2(other.fileno(), number)
            tries += 1
            if libc.connect(number, address, 110) != 0: continue
            if {swap!r} == "descriptor": reached += 1; continue
            with socket.socket(fileno=os.dup(number)) as connected: peer = connected.getpeername()
            if peer == mine: server.accept()[0].close()
            else: reached += 1
        thread.join()
        print(tries > 100, reached)""")
    assert said == "True 0"


# --- bound inside -------------------------------------------------------------------------------------------------

@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET"])
def test_servers_inside_are_reached(enclosed, folder, kind):
    """By whatever path, and for as long as they listen."""
    assert inside(enclosed, f"""
        kind = socket.{kind}
        os.chdir({str(folder)!r})
        a, b, c = serve("a", kind), serve({str(folder)!r} + "/b", kind), serve("\\0name", kind)
        os.symlink("a", "l"); os.link("b", "h"); os.mkdir("d"); os.rename("b", "d/r")
        where = os.open(".", os.O_PATH)
        for path in ("a", "./a", "d/../a", {str(folder)!r} + "/a", "l", "h", "d/r", "\\0name", f"/proc/self/fd/{{where}}/a", "b"):
            print(attempt(path, kind))
        a.close()
        print(attempt("a", kind))
        os.unlink("a"); a = serve("a", kind)
        print(attempt("a", kind))""").split() == ["connected"] * 9 + ["ENOENT", "ECONNREFUSED", "connected"]


def test_what_does_not_work_anyway_fails_as_always(enclosed, folder):
    assert inside(enclosed, f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        os.chdir({str(folder)!r})
        server = serve("s"); os.symlink("loop", "loop")
        def call(fd, address, length):
            return "done" if libc.connect(fd, address, length) == 0 else errno.errorcode[ctypes.get_errno()]
        u, t = socket.socket(socket.AF_UNIX), socket.socket()
        print(attempt("note"), attempt("none"), attempt("note/s"), attempt("loop"), attempt("."))
        print(attempt("s", socket.SOCK_SEQPACKET))
        print(call(u.fileno(), ctypes.c_void_p(8), 20), call(u.fileno(), b"\\1\\0s", -1), call(u.fileno(), b"\\1\\0s", 4000))
        print(call(999, b"\\1\\0s", 4), call(0, b"\\1\\0s", 4), call(u.fileno(), b"\\2\\0s", 4), call(u.fileno(), b"\\1\\0", 2))
        print(call(t.fileno(), b"\\1\\0s", 4), call(u.fileno(), b"\\1\\0s", 3), call(u.fileno(), b"\\1\\0s", 4))""").split() == [
            "ECONNREFUSED", "ENOENT", "ENOTDIR", "ELOOP", "ECONNREFUSED", "EPROTOTYPE", "EFAULT", "EINVAL", "EINVAL",
            "EBADF", "ENOTSOCK", "EINVAL", "EINVAL", "EINVAL", "done", "EISCONN"]


def test_permissions_are_those_of_the_caller(user, enclosed, folder):
    """Also of one who has dropped root's rights, and of one who has them over other users' files."""
    if user:
        assert inside(enclosed, f"""
            path = {str(folder / 's')!r}
            server = serve(path); os.chmod(path, 0)
            print(attempt(path))""") == "EACCES"
        return
    assert inside(enclosed, f"""
        import struct
        path = {str(folder / 's')!r}
        server = serve(path); os.chmod(path, 0o600)
        def as_user(uid, gid, groups=()):
            sys.stdout.flush()
            if (child := os.fork()) == 0:
                os.setgroups(groups); os.setgid(gid); os.setuid(uid)
                print(attempt(path), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
        def peer():
            return struct.unpack("3i", server.accept()[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        as_user(1234, 1234)
        os.chown(path, 1234, 0); as_user(1234, 77); print(peer())
        as_user(0, 0); print(peer())
        os.chmod(path, 0o620); os.chown(path, 0, 55); as_user(1234, 1234); as_user(1234, 1234, [7, 55])""").splitlines() == [
            "EACCES", "connected", "(1, 1234, 77)", "connected", "(1, 0, 0)", "EACCES", "connected"]


def test_where_groups_cannot_be_changed(enclosed, folder):
    """In a user namespace that an ordinary user has made: root by name, setgroups(2) denied."""
    story = HELPERS + f"server = serve({str(folder / 's')!r}); print(attempt({str(folder / 's')!r}))"
    line = ["unshare", "--user", "--map-root-user", "--", *enclosed.line("python3", "-c", story)[len(identity(enclosed.user)):]]
    result = subprocess.run([*identity(enclosed.user), *line], capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder, timeout=60)
    assert result.stdout == "connected\n", result.stderr


@pytest.mark.parametrize("wrap", ["unshare -Ur", "unshare -Urn", "unshare -Urm", "unshare -Urpf", "unshare -Urnm chroot /"])
def test_servers_in_nested_namespaces(enclosed, folder, wrap):
    story = HELPERS + f"s = serve({str(folder / 's')!r}); print(attempt({str(folder / 's')!r}), attempt('/none'))"
    result = enclosed.run(*wrap.split(), "python3", "-c", story)
    assert result.stdout == "connected ENOENT\n", result.stderr


def test_a_caller_in_a_chroot(user, enclosed, folder):
    """Its paths begin at its own root."""
    if user:
        pytest.skip("root's")
    assert inside(enclosed, f"""
        os.chdir({str(folder)!r}); os.mkdir("root"); server = serve("root/s"); outer = serve("s")
        os.chroot("root")
        print(attempt("/s"), attempt("/../s"), attempt("s"), attempt("/root/s"))
        outer.close(); print(attempt("s"))""") == "connected connected connected ENOENT\nECONNREFUSED"


def test_callers_that_cannot_be_traced(enclosed, folder):
    """As agents and browsers make themselves."""
    assert inside(enclosed, f"""
        import ctypes
        server = serve({str(folder / 's')!r})
        ctypes.CDLL(None).prctl(4, 0)
        print(attempt({str(folder / 's')!r}))""") == "connected"


@pytest.mark.smoke
def test_many_at_once_and_some_that_wait(enclosed, folder):
    """A server that does not accept holds up those who want to reach it, and nobody else; who is killed goes."""
    assert inside(enclosed, f"""
        import signal, time
        os.chdir({str(folder)!r})
        full, server = serve("full", backlog=0), serve("s", backlog=1000)
        waiting = []
        for _ in range(40):
            if (child := os.fork()) == 0:
                attempt("full"); time.sleep(1000)
            waiting.append(child)
        results = []
        def work():
            for _ in range(25): results.append(attempt("s"))
        threads = [threading.Thread(target=work) for _ in range(16)]
        for t in threads: t.start()
        for t in threads: t.join()
        for child in waiting: os.kill(child, signal.SIGKILL)
        ends = [os.waitpid(child, 0)[1] for child in waiting]
        print(len(results), set(results), set(ends))""") == "400 {'connected'} {9}"


def test_signals_while_connecting(enclosed, folder):
    """A call is not repeated after it was done."""
    assert inside(enclosed, f"""
        import signal
        os.chdir({str(folder)!r})
        server = serve("s", backlog=10000)
        signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        said = {{attempt("s") for _ in range(3000)}}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(said)""") == "{'connected'}"


def test_sockets_of_the_network(enclosed):
    assert inside(enclosed, """
        server = socket.create_server(("127.0.0.1", 0)); port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port)); server.accept()[0].sendall(b"hello"); print(client.recv(9))
        quick = socket.socket(); quick.setblocking(False); print(errno.errorcode[quick.connect_ex(("127.0.0.1", port))])
        datagrams = socket.socket(type=socket.SOCK_DGRAM); datagrams.connect(("127.0.0.1", port)); print(datagrams.getpeername()[1] == port)
        libc = __import__("ctypes").CDLL(None); print(libc.connect(datagrams.fileno(), bytes(16), 16))
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print(libc.connect(netlink.fileno(), b"\\x10" + bytes(11), 12))
        print(socket.socket().connect_ex(("192.0.2.1", 5)) != 0)""").split() == ["b'hello'", "EINPROGRESS", "True", "0", "0", "True"]


# --- programs -----------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
def test_tmux_inside(enclosed):
    script = "tmux new-session -d 'sleep 1000' && tmux list-sessions && tmux kill-server"
    result = enclosed.run("sh", "-c", script)
    assert result.stdout.startswith("0: 1 windows"), result.stderr


def test_ssh_agent_inside(enclosed):
    result = enclosed.run("sh", "-c", "eval $(ssh-agent) >/dev/null; ssh-add -l; kill $SSH_AGENT_PID")
    assert "no identities" in result.stdout, result.stderr


def test_python_multiprocessing_inside(enclosed):
    program = enclosed.folder / "program.py"
    program.write_text("import multiprocessing as m\ndef square(x): return x * x\nif __name__ == '__main__':\n"
                       "    m.set_start_method('forkserver')\n    shared = m.Manager().list()\n"
                       "    with m.Pool(2) as pool: shared.extend(pool.map(square, range(4)))\n    print(list(shared))\n")
    result = enclosed.run("python3", program)
    assert result.stdout == "[0, 1, 4, 9]\n", result.stderr


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_node_inside(enclosed, folder):
    story = """
const net = require('net'), child = require('child_process');
const server = net.createServer(s => s.end('hello')).listen('PATH', () => {
  net.connect('PATH').on('data', d => { console.log(String(d)); server.close();
    const c = child.fork('-e', ['process.send("from the child")'], {execArgv: []}); c.on('error', console.error);
    child.spawn('echo', ['spawned'], {stdio: 'inherit'}); c.kill(); }); });
""".replace("PATH", str(folder / "s"))
    result = enclosed.run("node", "-e", story)
    assert result.stdout.split() == ["hello", "spawned"], result.stderr


# --- datagrams ----------------------------------------------------------------------------------------------------

def test_datagrams_reach_nobody(enclosed, folder):
    """They could be sent to any path without connect(2)."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(folder / "d"))
    os.chmod(folder / "d", 0o777)
    receiver.setblocking(False)
    said = inside(enclosed, f"""
        path = {str(folder / 'd')!r}
        def outcome(call, *arguments):
            try: return call(*arguments) and "done"
            except OSError as problem: return errno.errorcode[problem.errno]
        def both(kind):
            s = socket.socket(socket.AF_UNIX, kind)
            return outcome(s.sendto, b"x", path), outcome(s.sendmsg, [b"x"], [], 0, path), attempt(path, kind)
        print(*both(socket.SOCK_DGRAM), *both(socket.SOCK_RAW))
        print(outcome(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM), outcome(socket.socketpair, socket.AF_UNIX, socket.SOCK_RAW))
        print(outcome(socket.socketpair, socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC),
              outcome(socket.socketpair, socket.AF_UNIX, socket.SOCK_SEQPACKET))
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); print(os.get_inheritable(s.fileno()), socket.if_nametoindex("lo"))
        import ctypes
        fd = ctypes.CDLL(None).socket(1, 2 | os.O_NONBLOCK, 0); print(os.get_inheritable(fd), os.get_blocking(fd))
        """)
    assert said.splitlines() == ["EPIPE EPIPE ECONNREFUSED EPIPE EPIPE ECONNREFUSED", "EPROTONOSUPPORT EPROTONOSUPPORT", "done done",
                                 "False 1", "True False"]
    with pytest.raises(BlockingIOError):
        receiver.recv(1)


def test_a_kept_datagram_socket(enclosed, folder):
    """Then datagrams go where they are sent."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(folder / "d"))
    os.chmod(folder / "d", 0o777)
    receiver.settimeout(10)
    story = f"""
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.sendto(b"sent", {str(folder / 'd')!r}); s.connect({str(folder / 'd')!r}); s.send(b"connected")"""
    inside(enclosed, story, options=[*AIRGAPPED, "--keep", folder / "d"])
    assert (receiver.recv(20), receiver.recv(20)) == (b"sent", b"connected")


# --- kept ---------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_a_kept_socket_is_the_one_it_was(enclosed, outside, folder):
    outside("renamed", folder)
    keep = {"options": [*AIRGAPPED, "--keep", folder / "s"]}
    assert attempt(enclosed, folder / "s", **keep) == "connected"
    other = enclosed.folder / "other"
    other.mkdir()
    os.chown(other, enclosed.user or 0, enclosed.user or 0)
    outside("absolute", other)
    assert attempt(enclosed, other / "s", **keep) == "ECONNREFUSED"
    assert inside(enclosed, f"""
        try: os.rename({str(other / 's')!r}, {str(folder / 's')!r})
        except OSError: pass
        print(attempt({str(other / 's')!r}), attempt({str(folder / 's')!r}))""", **keep) in ("ENOENT ECONNREFUSED",
                                                                                             "ECONNREFUSED connected")


def test_sockets_of_a_kept_folder(enclosed, outside, folder):
    """Also later ones; but none that the command brings there."""
    other = enclosed.folder / "other"
    other.mkdir()
    os.chown(other, enclosed.user or 0, enclosed.user or 0)
    outside("absolute", other)
    deep = folder / "deep"
    deep.mkdir()
    os.chown(deep, enclosed.user or 0, enclosed.user or 0)
    story = HELPERS + textwrap.dedent(f"""
        theirs, folder = {str(other / 's')!r}, {str(folder)!r}
        print(attempt(theirs), flush=True); sys.stdin.readline()
        print(attempt(folder + "/s"), attempt(folder + "/deep/s"))
        os.chdir(folder); print(attempt("deep/../s"))
        for bring in os.link, os.rename:
            try: bring(theirs, folder + "/brought")
            except OSError as problem: print(errno.errorcode[problem.errno])
        os.symlink(theirs, "link"); print(attempt("link"))""")
    process = enclosed.start("python3", "-c", story, stdin=subprocess.PIPE, options=[*AIRGAPPED, "--keep", folder])
    assert process.stdout.readline() == "ECONNREFUSED\n"
    outside("absolute", folder)
    outside("linked", deep)
    out, err = process.communicate("\n", timeout=60)
    assert out.split() == ["connected", "connected", "connected", "EXDEV", "EXDEV", "ECONNREFUSED"], err


def test_a_mount_inside_does_not_make_a_kept_folder(enclosed, outside, folder):
    """The same path, but in a mount namespace that the command has made."""
    other = enclosed.folder / "other"
    other.mkdir()
    os.chown(other, enclosed.user or 0, enclosed.user or 0)
    outside("absolute", other)
    story = HELPERS + f"print(attempt({str(folder / 's')!r}))"
    script = f'mount --bind {other} {folder} && exec python3 -c "$0"'
    result = enclosed.run("unshare", "-Urm", "sh", "-c", script, story, options=[*AIRGAPPED, "--keep", folder])
    assert result.stdout == "ECONNREFUSED\n", result.stderr


# --- filters ------------------------------------------------------------------------------------------------------

SECCOMP = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
class Code(ctypes.Structure): _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Code))]
def install(action, flags):
    libc.prctl(38, 1, 0, 0, 0)
    got = libc.syscall(317, 1, flags, ctypes.byref(Program(1, ctypes.pointer(Code(6, 0, 0, action)))))
    return got if got >= 0 else errno.errorcode[ctypes.get_errno()]
"""
needs_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls of x86-64")


@needs_x86_64
@pytest.mark.parametrize("action", [0x7fff0000, 0x7ff00000, 0x7ffc0000])
def test_filters_of_the_command_do_not_loosen_ours(enclosed, outside, folder, action):
    """Allow, trace, log. And a second listener there cannot be."""
    outside("absolute", folder)
    story = f"{SECCOMP}\nprint(install(0x7fc00000, 8), install({action}, 0))\n" if action != 0x7ff00000 else \
        f"{SECCOMP}\nprint(install(0x7fc00000, 8), 0)\n"
    assert inside(enclosed, "") == ""
    said = enclosed.python(HELPERS + story + f"print(attempt({str(folder / 's')!r}))")
    assert said == "EBUSY 0\nECONNREFUSED"


@needs_x86_64
def test_without_supervision_there_are_no_unix_sockets(enclosed):
    """When whoever runs us has the kernel's one listener already."""
    line = enclosed.line("python3", "-c", HELPERS + textwrap.dedent("""
        def made(call, *arguments):
            try: call(*arguments); return "made"
            except OSError as problem: return errno.errorcode[problem.errno]
        print(made(socket.socket, socket.AF_UNIX), made(socket.socket, socket.AF_UNIX, socket.SOCK_DGRAM), made(socket.socketpair),
              made(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM))
        server = socket.create_server(("127.0.0.1", 0)); print(made(socket.create_connection, server.getsockname()))"""))
    launcher = f"import errno, os\n{SECCOMP}\nos.set_inheritable(install(0x7fff0000, 8), True)\nos.execvp({line[0]!r}, {line!r})"
    result = subprocess.run(["python3", "-c", launcher], capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder, timeout=60)
    assert result.stdout == "EAFNOSUPPORT EAFNOSUPPORT made EPROTONOSUPPORT\nmade\n", result.stderr
    assert result.stderr.count("\n") == 1 and "no unix sockets" in result.stderr
