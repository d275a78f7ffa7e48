"""The Debian package, built once a run."""
import fcntl
import os
import subprocess

import pytest

from lab import ROOT, missing_programs


def build(folder):
    # scripts/package runs lintian and fails on its errors and warnings. The unit tests have run already.
    done = subprocess.run([str(ROOT / "scripts/package"), "deb", str(folder)], text=True, capture_output=True, timeout=900,
                          env={**os.environ, "DEB_BUILD_OPTIONS": "nocheck"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    missing = missing_programs("dpkg-buildpackage", "dh", "lintian", "fakeroot")
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)} (scripts/install-deps package)")
    if not (ROOT / ".git").exists():
        pytest.skip("packages are made from a checkout")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes of this run
    folder /= "debian-package"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("sallyport_*.deb")):
            build(folder)
    [deb] = folder.glob("sallyport_*.deb")
    return deb
