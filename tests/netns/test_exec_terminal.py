"""
On a terminal: job control, an interactive shell, vim. A pty is the terminal; its far end is typed at.

The commands that are stopped are bash's: dash starts programs through vfork(2), and a Ctrl-Z that meets its child before
the exec leaves dash waiting for it, without sallyport, too. bash abandons the rest of a command line whose job stops.
"""
import os
import shutil
import signal

import pytest

from enclosed import Terminal, children_of, name_of, wait_until
from exec_fixtures import enclosed  # noqa: F401

CTRL_C, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x1a", "\x1c"
INNER = ["bash", "--norc", "--noprofile", "--noediting", "-i"]


@pytest.fixture
def terminal(enclosed):
    opened = []

    def make(*command, **more):
        opened.append(Terminal(*command, user=enclosed.user, cwd=enclosed.folder, **more))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def prompt(enclosed, terminal):
    """An interactive shell outside, at its prompt; `run` is the beginning of a command line."""
    shell = terminal(*INNER)
    shell.expect("outer> ")
    shell.run = f"{enclosed.binary} exec --quiet --policy airgapped -- "
    return shell


@pytest.mark.smoke
def test_direct_on_a_terminal(enclosed, terminal):
    """No shell outside: sallyport leads the session, as under ssh -t."""
    screen = terminal(*enclosed.line("sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo all three")[len_identity(enclosed):])
    screen.expect("/dev/console\r\n")
    screen.expect("all three")
    assert screen.wait() == 0


def len_identity(enclosed):
    return enclosed.line().index(enclosed.binary)


@pytest.mark.smoke
def test_ctrl_c_goes_to_the_command_alone(prompt):
    prompt.type(prompt.run + "sh -c 'trap \"echo caught; exit 7\" INT; echo go; while :; do sleep 0.1; done'; echo status $?\n")
    prompt.expect("\ngo")
    prompt.type(CTRL_C)
    prompt.expect("caught")
    prompt.expect("status 7\r\n")


def test_ctrl_c_kills(prompt):
    prompt.type(prompt.run + "sh -c 'echo go; exec sleep 1000'; echo status $?\n")
    prompt.expect("\ngo")
    prompt.type(CTRL_C)
    prompt.expect("status 130\r\n")


def test_ctrl_c_in_a_script_ends_the_script(enclosed, prompt):
    (enclosed.folder / "script").write_text(f"for i in 1 2 3; do {prompt.run} sh -c 'echo go; exec sleep 1000'; echo next; done\n")
    prompt.type("bash script; echo status $?\n")
    prompt.expect("\ngo")
    prompt.type(CTRL_C)
    prompt.expect("outer> ")
    assert "next" not in prompt.seen


@pytest.mark.smoke
def test_ctrl_z_and_fg(prompt):
    story = "trap \"echo continued\" CONT; echo go; until read -t 0.2 line; do :; done; echo \"read $line\"; exit 6"
    prompt.type(prompt.run + f"bash -c '{story}'\n")
    prompt.expect("\ngo")
    for _ in range(3):
        prompt.type(CTRL_Z)
        prompt.expect("Stopped.*\r\n")
        prompt.expect("outer> ")
        prompt.type("fg; echo status $?\n")
        prompt.expect("\ncontinued")
    prompt.type("a line\n")
    prompt.expect("read a line")
    prompt.expect("status 6\r\n")


def test_bg_and_fg(prompt):
    """In the background the command runs; what it wants of the terminal stops it until it is in the foreground."""
    prompt.type(prompt.run + "bash -c 'echo go; sleep 1; echo ran; read line; echo \"read $line\"'\n")
    prompt.expect("\ngo")
    prompt.type(CTRL_Z)
    prompt.expect("Stopped")
    prompt.expect("outer> ")
    prompt.type("bg\n")
    prompt.expect("ran\r\n")
    wait_until(lambda: job_is_stopped(prompt), "the job stops for input")
    prompt.type("fg\n")
    prompt.expect("exec --quiet")
    prompt.type("a line\n")
    prompt.expect("read a line")
    prompt.expect("outer> ")


def test_started_in_the_background(prompt):
    prompt.type(prompt.run + "sh -c 'read line; echo \"read $line\"' &\n")
    prompt.expect("outer> ")

    wait_until(lambda: job_is_stopped(prompt), "the job stops for input")
    prompt.type("fg\n")
    prompt.expect("sh -c")
    prompt.type("a line\n")
    prompt.expect("read a line")


def job_is_stopped(prompt):
    """As the shell outside has it."""
    prompt.type("jobs; echo end of jobs\n")
    return "Stopped" in prompt.expect("(?s)(.*)\nend of jobs").group(1)


@pytest.mark.smoke
def test_an_interactive_shell_with_jobs_of_its_own(prompt):
    prompt.type("stty -echo; PS1='outer> '\n")
    prompt.expect("outer> ")
    prompt.type(f"PS1='inner> ' {prompt.run} {' '.join(INNER)}; echo status $?\n")
    prompt.expect("inner> ")
    assert "no job control" not in prompt.seen
    prompt.type("sleep 1000\n")
    wait_until(lambda: foreground_name(prompt) == "sleep", "the job runs")
    prompt.type(CTRL_Z)
    prompt.expect(r"\[1\]\+ +Stopped +sleep 1000")
    prompt.expect("inner> ")
    prompt.type("bg; jobs\n")
    prompt.expect(r"Running +sleep 1000 &")
    prompt.type("fg\n")
    wait_until(lambda: foreground_name(prompt) == "sleep", "the job is in the foreground")
    prompt.type(CTRL_C)
    prompt.expect("inner> ")
    prompt.type("cat\n")
    wait_until(lambda: foreground_name(prompt) == "cat", "cat runs")
    prompt.type("typed\n")
    prompt.expect("typed")
    prompt.type(CTRL_C)
    prompt.expect("inner> ")
    prompt.type("suspend\n")
    prompt.expect("outer> ")
    prompt.type("fg; echo status $?\n")
    prompt.expect("exec --quiet")
    prompt.type("exit 5\n")
    prompt.expect("status 5")
    prompt.expect("outer> ")
    prompt.type("echo still here\n")
    prompt.expect("still here")


def foreground_name(terminal):
    """The leader of the group that the terminal's keys go to."""
    return name_of(terminal.foreground())


@pytest.mark.skipif(not shutil.which("vim"), reason="vim is not installed")
def test_vim(enclosed, prompt):
    (enclosed.folder / "text").write_text("first\n")
    os.chown(enclosed.folder / "text", enclosed.user or 0, enclosed.user or 0)
    prompt.type(prompt.run + "vim -u NONE -N text; echo status $?\n")
    prompt.expect("first")
    prompt.type("osecond\x1b")
    prompt.expect("second")
    prompt.type(CTRL_Z)
    prompt.expect("Stopped")
    prompt.expect("outer> ")
    assert prompt.echoes()
    prompt.type("fg; echo status $?\n")
    prompt.expect("second")
    prompt.type("othird\x1b:wq\r")
    prompt.expect("status 0")
    assert (enclosed.folder / "text").read_text() == "first\nsecond\nthird\n"
    assert prompt.echoes()


def test_in_a_pipeline_the_terminal_stays_with_the_pager(enclosed, prompt):
    prompt.type(prompt.run + "sh -c 'echo in; echo out' | sh -c 'cat; read line < /dev/tty; echo \"pager read $line\"'\n")
    prompt.expect("\nin\r\nout")
    prompt.type("more\n")
    prompt.expect("pager read more")
    prompt.expect("outer> ")


def test_in_a_pipeline_the_command_may_ask_for_the_terminal(prompt):
    prompt.type(prompt.run + "sh -c 'read line; echo \"got $line\"' | cat\n")
    prompt.type("an answer\n")
    prompt.expect("got an answer")
    prompt.expect("outer> ")


def test_ctrl_c_in_a_pipeline(prompt):
    prompt.type(prompt.run + "sh -c 'echo go; exec sleep 1000' | cat; echo status ${PIPESTATUS[0]}\n")
    prompt.expect("\ngo")
    prompt.type(CTRL_C)
    prompt.expect("outer> ")


def test_the_terminal_comes_back_when_the_command_kept_it(prompt):
    """The last foreground group inside was not the command's own."""
    prompt.type(prompt.run + f"{INNER[0]} -i -c 'sleep 0.1; set -m; (sleep 1000 &); exit 4'; echo status $?\n")
    prompt.expect("status 4")
    prompt.expect("outer> ")
    prompt.type("cat\n")
    prompt.type("typed\n")
    prompt.expect("typed\r\ntyped")
    prompt.type(CTRL_C)
    prompt.expect("outer> ")


def test_ctrl_z_where_nobody_could_continue(enclosed, terminal):
    """sallyport leads the session: a stop would be for good, so it does not happen."""
    screen = terminal(*enclosed.line("bash", "-c", "echo go; read line; echo \"read $line\"")[len_identity(enclosed):])
    screen.expect("go\r\n")
    screen.type(CTRL_Z)
    screen.type("a line\n")
    screen.expect("read a line")
    assert screen.wait() == 0


def test_the_terminal_hangs_up(enclosed, terminal):
    screen = terminal(*enclosed.line("sh", "-c", "echo go; exec sleep 1000")[len_identity(enclosed):])
    screen.expect("go\r\n")
    tree = children_of(screen.pid)
    os.kill(screen.pid, signal.SIGHUP)
    assert screen.wait() == 128 + signal.SIGHUP
    wait_until(lambda: not [pid for pid in tree if name_of(pid)], "everything ends")


def test_window_size(enclosed, terminal):
    import fcntl
    import struct
    import termios
    screen = terminal(*enclosed.line("bash", "-c", "trap 'stty size; exit' WINCH; echo go; while :; do sleep 0.1; done")[len_identity(enclosed):])
    screen.expect("go\r\n")
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    screen.expect("33 77\r\n")
    assert screen.wait() == 0
