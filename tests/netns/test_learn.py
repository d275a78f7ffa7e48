"""Learning: what a run with --audit-only did becomes a policy under which the same run passes, and nothing more does."""
import json
import subprocess

from origins import address
from test_rules import ssh
from test_web import CURL

REPOSITORY = "https://git.example/git/story.git"


def sallyport(lab, *arguments):
    return subprocess.run([lab.binary, *arguments], capture_output=True, text=True, timeout=60)


def log_of(lab):
    """The audit log of the run before."""
    return lab.folder / f"run-{lab.runs}" / "audit.jsonl"


def suggest(lab, audit_path, *options):
    done = sallyport(lab, "policy", "suggest", *options, audit_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def rules(policy):
    return [line.split("#")[0].strip()[2:].strip() for line in policy.splitlines() if line.lstrip().startswith("- ")]


def test_a_run_writes_its_own_policy(lab, family, tmp_path):
    """Web sites, a repository, ssh and an address: recorded, suggested, enforced."""
    work = [
        [*CURL, f"-{family}", "-o", "/dev/null", "https://allowed.example/", "http://allowed.example/"],
        [*CURL, f"-{family}", "-o", "/dev/null", "https://wild.example/", "http://sub.wild.example/"],
        [*CURL, f"-{family}", "-o", "/dev/null", "https://allowed.example:8443/"],
        ["git", "-c", "http.version=HTTP/1.1", "ls-remote", REPOSITORY],
        ssh(lab, family, "true"),
        [*lab.client, "reset-by-client", address("end.example", family), "7002"],
    ]
    script = tmp_path / "work.json"
    script.write_text(json.dumps([list(map(str, step)) for step in work]))
    tmp_path.chmod(0o755)
    command = ["python3", "-c", "import json,subprocess,sys\nfor step in json.load(open(sys.argv[1])):\n"
                                "    subprocess.run(step, check=True)", script]
    lab.exec(command, options=["--audit-only"]).ok()
    policy = suggest(lab, log_of(lab))
    net = address("end.example", family)
    assert set(rules(policy)) == {
        "allowed.example", "https://wild.example", "http://sub.wild.example", "tcp://allowed.example:8443", "https://git.example",
        "tcp://ssh.example:22", f'"[{net}]:7002"' if ":" in net else f"{net}:7002"}
    enforced = lab.exec(command, config=lab.config(policy)).ok()
    assert not enforced.audit.denied()
    # Nothing was opened beside it.
    refused = lab.exec([*CURL, f"-{family}", "https://denied.example/"], config=lab.config(policy))
    assert refused.status == 6 and "denied.example" in refused.err  # not even a DNS answer
    assert lab.exec([*CURL, f"-{family}", "http://wild.example/"], config=lab.config(policy)).out.startswith("sallyport refused")


def test_what_a_policy_denied_is_a_comment(lab):
    lab.exec(["sh", "-c", "curl -sS https://allowed.example/ >/dev/null; curl -sS https://denied.example/; true"],
             allow=["https://allowed.example"]).ok()
    log = log_of(lab)
    policy = suggest(lab, log)
    assert rules(policy) == ["https://allowed.example"]
    assert "#   denied.example" in policy
    assert rules(suggest(lab, log, "--denied")) == ["denied.example", "https://allowed.example"]  # DNS refused: the port is unknown


def test_the_log_is_read_by_people(lab):
    lab.exec(["sh", "-c", "curl -sS https://denied.example/; curl -sS http://denied.example/; true"],
             allow=["allowed.example"]).ok()
    path = log_of(lab)

    def log(*options):
        return sallyport(lab, "log", *options, path).stdout
    assert " deny " in log() and " denied.example A" in log("--denied")
    [row, *others] = [json.loads(line) for line in log("--summary", "--json").splitlines()]
    assert row["subject"] == "denied.example" and row["reason"] == "no_rule" and row["count"] >= 2 and not others
