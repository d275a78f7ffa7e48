"""Learning from real programs: what npm, pip, git and apt did becomes a policy under which the same run passes."""
import shutil
import subprocess

import pytest

import registries
from test_learn import log_of, rules, suggest

NPM = "npm install --prefix {to} --registry https://npm.example/files/npm/ --cache {to}/cache --no-audit --no-fund " \
      "--no-update-notifier --fetch-retries=0 --loglevel=warn gate-app && test -f {to}/node_modules/gate-lib/index.js"
PIP = "/usr/bin/python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --index-url " \
      "https://pypi.example/files/pypi/simple/ --cert $SSL_CERT_FILE --target {to} gate-wheel && test -f {to}/gate_wheel.py"
GIT = "git clone -q https://git.example/git/story.git {to}/story && test -f {to}/story/README"
APT = "cd {to} && APT_CONFIG={to}/apt.conf apt-get -qq update && APT_CONFIG={to}/apt.conf apt-get -qq download gate-deb && " \
      "test -f {to}/gate-deb_1.0_all.deb"


def has_pip():
    return subprocess.run(["/usr/bin/python3", "-m", "pip", "--version"], capture_output=True).returncode == 0


TOOLS = {
    "npm": (NPM, {"https://npm.example", "https://files.example"}, lambda: shutil.which("npm", path="/usr/bin:/bin")),
    "pip": (PIP, {"https://pypi.example", "https://files.example"}, has_pip),
    "git": (GIT, {"https://git.example"}, lambda: True),
    "apt": (APT, {"http://deb.example"}, lambda: shutil.which("apt-get")),
    "all": (f"({NPM}) && ({PIP}) && ({GIT}) && ({APT})",
            {"https://npm.example", "https://pypi.example", "https://files.example", "https://git.example", "http://deb.example"},
            lambda: shutil.which("npm", path="/usr/bin:/bin") and has_pip() and shutil.which("apt-get")),
}


@pytest.fixture(scope="module")
def packages(whole_lab):
    registries.make_all(whole_lab)


def work(folder, command):
    """The same from the beginning: nothing is in a cache."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    registries.apt_configuration(folder)
    return ["sh", "-c", command.format(to=folder)]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_real_run_writes_the_policy_it_passes_under(lab, packages, tool):
    command, wanted, there = TOOLS[tool]
    if not there():
        pytest.skip(f"not installed: {tool}")
    folder = lab.folder / f"learn-{tool}"
    lab.exec(work(folder, command), options=["--audit-only"], timeout=60).ok()
    policy = suggest(lab, log_of(lab))
    assert set(rules(policy)) == wanted
    enforced = lab.exec(work(folder, command), config=lab.config(policy), timeout=60).ok()
    assert not enforced.audit.denied()
    assert enforced.audit.dns_denied() <= {"_http._tcp.deb.example"}  # apt asks, and does without an answer
    # It is needed: with one host less the same run fails, and says at whom.
    fewer = "\n".join(line for line in policy.splitlines() if sorted(wanted)[0] not in line)
    if len(wanted) > 1:
        refused = lab.exec(work(folder, command), config=lab.config(fewer), timeout=60)
        assert refused.status != 0
        assert sorted(wanted)[0].split("//")[1] in refused.audit.dns_denied()
