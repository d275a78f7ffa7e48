"""What `sallyport exec` is to the program that runs it: exit status, signals, options, and how it dies."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from enclosed import ENVIRONMENT, children_of, identity, name_of, wait_until
from exec_fixtures import enclosed  # noqa: F401

AIRGAPPED = ["--quiet", "--policy", "airgapped"]


def child_named(process, name):
    found = [pid for pid in children_of(process.pid) if name_of(pid) == name]
    return found[0] if found else None


# --- exit status --------------------------------------------------------------------------------------------------

@pytest.mark.smoke
@pytest.mark.parametrize("status", [0, 1, 2, 125, 255])
def test_the_exit_status_is_the_commands(enclosed, status):
    assert enclosed.run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_death_by_a_signal(enclosed, number):
    assert enclosed.run("sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


def test_a_command_that_is_not_there(enclosed):
    for command in ("no-such-command-anywhere", "./missing", "/etc/passwd/x"):
        result = enclosed.run(command)
        assert result.returncode == 127
        assert result.stderr.count("\n") == 1 and f"cannot execute {command}: " in result.stderr


def test_a_command_that_cannot_be_executed(enclosed):
    (enclosed.folder / "text").write_text("nothing")
    for command in ("./text", "/etc"):
        result = enclosed.run(command)
        assert result.returncode == 126 and "cannot execute" in result.stderr


@pytest.mark.smoke
def test_options_of_the_command_are_its_own(enclosed):
    assert enclosed.run("printf", "%s.", "--audit", "-c", "--", "-q").stdout == "--audit.-c.--.-q."
    line = enclosed.line("echo", "-n", "x")
    line.remove("--")
    result = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder)
    assert result.stdout == "x"


def test_input_output_and_folder_are_the_callers(enclosed):
    deep = enclosed.folder / "a b" / "ü"
    deep.mkdir(parents=True)
    result = enclosed.run("sh", "-c", "pwd; cat; echo error >&2", cwd=deep, stdin=None, input="typed\n")
    assert result.stdout == f"{deep}\ntyped\n" and result.stderr == "error\n"


def test_a_folder_that_is_masked_is_an_error(enclosed):
    folder = Path("/run/sallyport-test-folder")
    folder.mkdir()
    try:
        result = enclosed.run("true", cwd=folder)
        assert result.returncode == 125 and str(folder) in result.stderr and "--keep" in result.stderr
        assert enclosed.run("pwd", cwd=folder, options=[*AIRGAPPED, "--keep", folder]).stdout.strip() == str(folder)
    finally:
        folder.rmdir()


def test_inside_another_exec_it_says_that_it_cannot(enclosed):
    result = enclosed.run(enclosed.binary, "exec", "-q", "--policy", "airgapped", "--", "true")
    assert result.returncode == 125 and "inside another sallyport exec" in result.stderr


def test_umask_limits_and_ignored_signals_are_passed_on(enclosed):
    line = " ".join(enclosed.line("sh", "-c", "'umask; ulimit -n; grep -E \"Sig(Blk|Ign)\" /proc/self/status'"))
    outer = f"umask 0027; ulimit -n 321; trap '' HUP; {line}"
    result = subprocess.run(["sh", "-c", outer], capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder)
    umask, limit, blocked, ignored = result.stdout.split("\n")[:4]
    assert (umask, limit) == ("0027", "321")
    assert int(blocked.split()[1], 16) == 0 and int(ignored.split()[1], 16) & 1


# --- options ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, says", [
    (["--resolver", "resolver.example"], "192.0.2.53"), (["--resolver", "192.0.2.1:99999"], "192.0.2.53"),
    (["--allow-destination", "10.0.0.1/8"], "host bits"), (["--allow-destination", "lab"], "10.20.0.0/16"),
    (["--keep", "run/docker.sock"], "absolute"), (["--keep", "/run/no/such/socket"], "No such file"),
    (["--link", "bridge"], "dummy"), (["--audit", "a", "--audit", "b"], "twice"), (["--audit", ""], "needs a value"),
    (["--allow", "exa mple.com"], ""), (["--allow", "ünicode.example"], ""), (["--policy", "nobody"], "policy show"),
    (["-c", "/no/such/file.yaml"], "/no/such/file.yaml"), (["-c", "/etc/passwd", "--allow", "example.com"], "leave out -c"),
    (["--no-such-option"], "--no-such-option"), (["-z"], "-z"), (["--resolver"], "needs a value"),
])
def test_wrong_options_start_nothing(enclosed, options, says):
    mark = enclosed.folder / "started"
    line = enclosed.line("touch", mark, options=options)
    if options[-1] == "--resolver":
        line = line[:line.index("--resolver") + 1]
    result = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and says in result.stderr
    assert not mark.exists()


def test_no_command_is_wrong_use(enclosed):
    for line in (enclosed.line(), enclosed.line("")):
        result = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder)
        assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_several_errors_of_a_policy_file_are_all_told(enclosed):
    (enclosed.folder / "bad.yaml").write_text("version: 1\npolicies:\n  a: {mode: loud}\n  b: {dns: maybe}\n")
    result = enclosed.run("touch", "started", options=["-c", "bad.yaml"])
    assert result.returncode == 2 and [line.split(":")[:2] for line in result.stderr.splitlines()] == [["bad.yaml", "3"], ["bad.yaml", "4"]]
    assert not (enclosed.folder / "started").exists()


@pytest.mark.skipif(os.path.exists("/etc/sallyport/sallyport.yaml"), reason="this machine has a policy file")
def test_without_any_policy_everything_is_denied_and_said(enclosed):
    result = enclosed.run("sh", "-c", "getent hosts example.com || echo denied", options=[])
    assert result.stdout == "denied\n"
    first, *_, last = result.stderr.splitlines()
    assert "everything is denied" in first and "--allow" in first
    assert "denied" in last and "example.com" in last


def test_help(enclosed):
    result = subprocess.run([enclosed.binary, "exec", "--help"], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0 and "--keep PATH" in result.stdout


# --- signals ------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2, signal.SIGWINCH])
def test_signals_are_passed_on(enclosed, number):
    story = f"from signal import *\npthread_sigmask(SIG_BLOCK, [{int(number)}])\nprint('go', flush=True)\nprint(int(sigwait([{int(number)}])))"
    process = enclosed.start("python3", "-c", story)
    assert process.stdout.readline() == "go\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert out == f"{int(number)}\n" and process.returncode == 0


def test_a_signal_that_kills(enclosed):
    process = enclosed.start("sh", "-c", "echo go; exec sleep 1000")
    assert process.stdout.readline() == "go\n"
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM


def test_without_a_terminal_a_stopped_command_can_be_continued(enclosed):
    process = enclosed.start("sh", "-c", "echo go; kill -STOP $$; echo on", start_new_session=True)
    assert process.stdout.readline() == "go\n"
    command = None

    def is_stopped():
        nonlocal command
        command = next((pid for pid in children_of(process.pid) if name_of(pid) == "sh"), None)
        return command and Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    wait_until(is_stopped, "the command stops")
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "on\n"


# --- the end ------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_everything_inside_ends_with_the_command(enclosed):
    process = enclosed.start("sh", "-c", "setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & (sleep 1001 &); echo go; read line", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "go\n"
    inside = children_of(process.pid)
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert not [pid for pid in inside if name_of(pid)]


@pytest.mark.smoke
@pytest.mark.parametrize("victim", ["monitor", "init"])
def test_killing_the_monitor_or_init_kills_the_command(enclosed, victim):
    process = enclosed.start("sh", "-c", "echo go; trap '' TERM HUP INT; while :; do sleep 1000; done")
    assert process.stdout.readline() == "go\n"
    tree = children_of(process.pid)
    assert len(tree) >= 3
    os.kill(process.pid if victim == "monitor" else child_named(process, "sallyport-init"), signal.SIGKILL)
    if victim == "init":
        assert process.wait(timeout=60) == 128 + signal.SIGKILL
    wait_until(lambda: not [pid for pid in tree if name_of(pid) and not is_zombie(pid)], "everything ends")
    process.communicate()


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_no_process_is_left(enclosed):
    for _ in range(5):
        enclosed.run("true")
    mine = os.fsencode(enclosed.binary)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if mine in command_line(path)]


def command_line(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- the worker ---------------------------------------------------------------------------------------------------

def test_the_worker_holds_no_capability(enclosed):
    process = enclosed.start("sh", "-c", "echo go; read line", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "go\n"
    worker = child_named(process, "sallyport-work")
    status = Path(f"/proc/{worker}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    process.communicate("\n", timeout=60)


@pytest.mark.smoke
def test_a_dead_worker_is_replaced_within_a_second(enclosed):
    """The command's next look-up is answered (denied) as before, by the next worker, through the same sockets."""
    story = "echo go; while read line; do getent hosts example.com && echo found || echo denied; done"
    process = enclosed.start("sh", "-c", story, stdin=subprocess.PIPE, options=["--policy", "airgapped"])
    assert process.stdout.readline() == "go\n"
    for round_number in range(3):
        worker = child_named(process, "sallyport-work")
        os.kill(worker, signal.SIGKILL)
        begun = time.monotonic()
        wait_until(lambda: child_named(process, "sallyport-work") not in (None, worker), "the next worker")
        assert time.monotonic() - begun < 1 or round_number
        process.stdin.write("again\n")
        process.stdin.flush()
        assert process.stdout.readline() == "denied\n"
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = [line for line in err.splitlines() if "worker" in line]
    assert len(lines) == 3 and all("signal 9" in line for line in lines)


def test_the_command_ends_while_there_is_no_worker(enclosed):
    process = enclosed.start("sh", "-c", "echo go; read line; exit 3", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "go\n"
    for _ in range(8):  # by then the pause before the next one is seconds
        wait_until(lambda: child_named(process, "sallyport-work"), "a worker")
        os.kill(child_named(process, "sallyport-work"), signal.SIGKILL)
        wait_until(lambda: not child_named(process, "sallyport-work"), "its end")
    process.communicate("\n", timeout=60)
    assert process.returncode == 3


def test_a_full_standard_error_stops_nothing(enclosed):
    """As a pipe that nobody reads, which the command may fill. What was not said is counted."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    process = enclosed.start("sh", "-c", "echo go; while read line; do :; done", stdin=subprocess.PIPE, stderr=writing)
    assert process.stdout.readline() == "go\n"

    def replace_worker():
        worker = child_named(process, "sallyport-work")
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: child_named(process, "sallyport-work") not in (None, worker), "the next worker")

    replace_worker()
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        while os.read(reading, 65536):
            pass
    replace_worker()
    process.communicate("", timeout=60)
    assert process.returncode == 0
    said = os.read(reading, 65536).decode()
    assert "left out while standard error was full: 1" in said and said.count("signal 9") == 1
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("files", range(6, 22, 2))
def test_too_few_open_files_are_said(enclosed, files):
    line = ["prlimit", f"--nofile={files}", *enclosed.line("true")]
    result = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=enclosed.folder, timeout=60)
    if "Sanitizer" in result.stderr or "cannot open shared object" in result.stderr:
        pytest.skip("not even the program itself starts")
    assert result.returncode == (125 if result.stderr else 0)
    assert not result.stderr or "open files" in result.stderr
    assert "does not finish" not in result.stderr


# --- the audit file -----------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_the_audit_file_is_appended_to_and_opened_anew(enclosed):
    log, rotated = enclosed.folder / "audit.jsonl", enclosed.folder / "audit.jsonl.1"
    log.write_text('{"event": "kept"}\n')
    os.chown(log, enclosed.user or 0, enclosed.user or 0)
    process = enclosed.start("sh", "-c", "echo go; while read name; do getent hosts $name || echo denied; done", stdin=subprocess.PIPE,
                             options=[*AIRGAPPED, "--audit", "audit.jsonl"])
    assert process.stdout.readline() == "go\n"

    def ask(name):
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "denied\n"

    ask("before.example")
    wait_until(lambda: "before.example" in log.read_text(), "the first event")
    log.rename(rotated)
    process.send_signal(signal.SIGUSR1)
    wait_until(log.exists, "the new file")
    ask("after.example")
    process.communicate(timeout=60)
    assert rotated.read_text().startswith('{"event": "kept"}\n') and "before.example" in rotated.read_text()
    assert "after.example" not in rotated.read_text()
    names = [json.loads(line)["dns"]["question"]["name"] for line in log.read_text().splitlines()]
    assert names[-1] == "after.example"  # events that were on their way may be in the new file
    assert oct(log.stat().st_mode & 0o777) == "0o600"


def test_an_audit_file_that_cannot_be_opened_starts_nothing(enclosed):
    result = enclosed.run("touch", "started", options=[*AIRGAPPED, "--audit", "missing/audit.jsonl"])
    assert result.returncode == 125 and "missing/audit.jsonl" in result.stderr
    assert not (enclosed.folder / "started").exists()


@pytest.fixture
def log_folder(enclosed):
    """Another than the one the command works in."""
    folder = enclosed.folder / "logs"
    folder.mkdir()
    os.chown(folder, enclosed.user or 0, enclosed.user or 0)
    work = enclosed.folder / "work"
    work.mkdir()
    os.chown(work, enclosed.user or 0, enclosed.user or 0)
    return folder


ASK = "echo go; while read line; do eval \"$line\"; echo done; done"


def told(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    while (said := process.stdout.readline()) not in ("done\n", ""):
        pass


@pytest.mark.smoke
def test_the_folder_of_the_audit_file_is_read_only(enclosed, log_folder):
    """Also for what a rotation puts there, and by whatever mount it is reached."""
    alias = enclosed.folder / "alias"
    alias.mkdir()
    subprocess.run(["mount", "--bind", log_folder, alias], check=True)
    try:
        process = enclosed.start("sh", "-c", ASK, stdin=subprocess.PIPE, cwd=enclosed.folder / "work",
                                 options=[*AIRGAPPED, "--audit", log_folder / "a.jsonl"])
        assert process.stdout.readline() == "go\n"
        (log_folder / "a.jsonl").rename(log_folder / "a.jsonl.1")
        process.send_signal(signal.SIGUSR1)
        wait_until((log_folder / "a.jsonl").exists, "the new file")
        for folder in log_folder, alias:
            told(process, f"echo forged > {folder}/a.jsonl; echo forged >> {folder}/a.jsonl.1; rm -f {folder}/a.jsonl; touch {folder}/b")
        told(process, f"mv {log_folder} {log_folder}.old")
        told(process, "getent hosts seen.example")
        out, err = process.communicate(timeout=60)
    finally:
        subprocess.run(["umount", alias], check=True)
    assert sorted(path.name for path in log_folder.iterdir()) == ["a.jsonl", "a.jsonl.1"]
    text = (log_folder / "a.jsonl").read_text() + (log_folder / "a.jsonl.1").read_text()
    assert "forged" not in text and "seen.example" in text
    assert "works in" not in err


@pytest.mark.parametrize("trap", ["ln -s {other} a.jsonl", "ln {other} a.jsonl", "mkfifo a.jsonl", "mkdir a.jsonl",
                                  "mv ../logs ../old; mkdir ../logs; ln -s {other} ../logs/a.jsonl"])
def test_the_command_cannot_send_the_audit_log_elsewhere(enclosed, log_folder, trap):
    """It works in the folder, so it may put there what it likes before a new file is opened."""
    other = enclosed.folder / "other"
    other.write_text("")
    os.chown(other, enclosed.user or 0, enclosed.user or 0)
    process = enclosed.start("sh", "-c", ASK, stdin=subprocess.PIPE, cwd=log_folder,
                             options=[*AIRGAPPED, "--audit", log_folder / "a.jsonl"])
    assert process.stdout.readline() == "go\n"
    held = os.open(log_folder, os.O_PATH)
    os.rename("a.jsonl", "a.jsonl.1", src_dir_fd=held, dst_dir_fd=held)
    told(process, trap.format(other=other))
    process.send_signal(signal.SIGUSR1)
    said = process.stderr.readline()
    told(process, "getent hosts seen.example")
    process.communicate(timeout=60)
    assert other.read_text() == ""
    moved = trap.startswith("mv")
    assert ("the command works in the folder" if moved else "the old one stays in use") in said
    kept = os.open("a.jsonl" if moved else "a.jsonl.1", os.O_RDONLY, dir_fd=held)
    assert b"seen.example" in os.read(kept, 65536)
    os.close(kept)
    os.close(held)
