"""
Fixtures: one lab a run, a fresh look at it for each test. What the machine lacks is a skip with a reason.

    --binary PATH   the sallyport to test (default: $SALLYPORT_BINARY, else build/cli/sallyport)
"""
import fcntl
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import evasion  # noqa: E402
import lab as laboratory  # noqa: E402
import origins  # noqa: E402

PROGRAMS = ["nginx", "dnsmasq", "sshd", "ssh", "ssh-keygen", "fcgiwrap", "git", "curl", "wget", "openssl", "node", "dig",
            "ping", "ip", "nsenter", "unshare", "setpriv"]


def pytest_addoption(parser):
    parser.addoption("--binary", help="the sallyport to test")


def pytest_configure(config):
    config.addinivalue_line("markers", "smoke: also run against the sanitized binary")
    config.addinivalue_line("markers", "evasion: serves a row of the evasion table (evasion.py)")


def pytest_collection_modifyitems(items):
    named = {test for _, _, _, tests in evasion.rows() for test in tests}
    for item in items:
        if f"{item.path.stem.removeprefix('test_')}::{getattr(item, 'originalname', item.name)}" in named:
            item.add_marker(pytest.mark.evasion)


def make_folder():
    """A folder for this run, and the lock that says it is in use. Folders of killed runs, which nobody locks, are removed."""
    for lock in Path(tempfile.gettempdir()).glob("sallyport-lab-*/lock"):
        try:
            with open(lock, "r+") as left:
                if time.time() - lock.stat().st_mtime > 60:  # a younger one may be about to be locked
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            continue  # in use, somebody else's, or gone
    folder = Path(tempfile.mkdtemp(prefix="sallyport-lab-"))
    lock = open(folder / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


@pytest.fixture(scope="session")
def whole_lab(request):
    binary = Path(request.config.getoption("--binary") or os.environ.get("SALLYPORT_BINARY")
                  or laboratory.ROOT / "build/cli/sallyport")
    if not binary.exists():
        pytest.fail(f"{binary} does not exist: build it first (scripts/test does)")
    if os.geteuid():
        pytest.skip("the lab's namespaces and servers need root")
    missing = laboratory.missing_programs(*PROGRAMS)
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)} (scripts/install-deps test)")
    folder, lock = make_folder()
    made = None
    try:
        try:
            made = laboratory.Lab(folder, binary)
        except PermissionError as problem:
            pytest.skip(f"this machine makes no network namespaces: {problem}")
        origins.start_all(made)
        yield made
    finally:
        if made:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


@pytest.fixture
def lab(whole_lab):
    whole_lab.begin()
    return whole_lab


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request, lab):
    if request.param not in lab.families():
        pytest.skip("this kernel has no IPv6")
    return request.param


@pytest.fixture(params=["root", "ordinary-user"])
def user(request):
    """None for root, or a uid: what `lab.exec(user=…)` takes."""
    if request.param == "root":
        return None
    if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
        pytest.skip("user.max_user_namespaces is 0: no sealed namespace without root")
    return laboratory.ORDINARY_USER
