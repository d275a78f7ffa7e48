"""Fixtures of the test_exec_*.py files; each imports what it uses."""
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from enclosed import Enclosed
from lab import ROOT


@pytest.fixture
def enclosed(request, user):
    """`sallyport exec` as root and as an ordinary user."""
    if os.geteuid():
        pytest.skip("acting as several users needs root")
    binary = Path(request.config.getoption("--binary") or os.environ.get("SALLYPORT_BINARY") or os.environ.get("SALLYPORT")
                  or ROOT / "build/cli/sallyport")
    folder = Path(tempfile.mkdtemp(prefix="sallyport-exec-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        copy = folder / "sallyport"
        shutil.copy(binary, copy)
        copy.chmod(0o755)
        own = folder / "own"
        own.mkdir()
        os.chown(own, user or 0, user or 0)
        made = Enclosed(copy, own, user)
        yield made
        made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
