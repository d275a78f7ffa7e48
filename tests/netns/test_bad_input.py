"""Wrong use: one line that says what to write, exit status 2, and nothing started."""
import pytest

from lab import ORDINARY_USER
from test_web import ALLOWED, CURL, past_dns


def wrong(lab, options, expected):
    """Runs `sallyport exec OPTIONS`; the command would leave a file behind if it ever started."""
    witness = lab.folder / f"witness-{lab.runs}"
    line, _ = lab.command_line(["touch", witness], options=options, audit=False, destinations=False, resolver=None)
    done = lab.direct(line)
    assert done.status == 2, done
    assert not witness.exists(), "the command was started"
    assert done.out == "" and expected in done.err, done
    return done.err.rstrip("\n").split("\n")


BAD_RULES = {
    "": "empty",
    "exa mple.com": "space",
    "ftp://example.com": "ftp",
    "https://": "https://",
    "example.com:99999": "port",
    "tcp://example.com": "port",
    "10.0.0.1/8": "10.0.0.0/8",
    "300.1.1.1": "300.1.1.1",
    "münchen.example": "xn--mnchen-3ya.example",
    "a..example": "a..example",
    "ex*mple.com": "*",
    "https://example.com/path": "path",
    "udp://ntp.example": "udp",
    "x" * 64 + ".example": "x" * 20,
}


@pytest.mark.parametrize("rule", BAD_RULES, ids=[rule[:24] or "empty" for rule in BAD_RULES])
def test_rules(lab, rule):
    [line] = wrong(lab, ["--allow", rule], BAD_RULES[rule])
    assert "--allow" in line


BAD_FILES = {
    # story: (text, what the message says)
    "an unknown key": ("version: 1\npolices: {}\n", ":2:1: unknown key \"polices\" in the file: did you mean \"policies\"?"),
    "no version": ("policies: {}\n", "version: 1"),
    "a duplicate key": ("version: 1\nversion: 1\n", ":2:1:"),
    "an unquoted wildcard": ("version: 1\npolicies:\n  a:\n    allow:\n      - *.example.com\n", "quote"),
    "an anchor": ("version: 1\npolicies: {a: &x {allow: []}}\n", ":2:"),
    "a tag": ("version: 1\npolicies: {a: {allow: !!set []}}\n", ":2:"),
    "two documents": ("version: 1\n---\nversion: 1\n", ":2:"),
    "a rule that is none": ("version: 1\npolicies:\n  a:\n    allow:\n      - \"ftp://x.example\"\n", ":5:9:"),
    "an unknown parent": ("version: 1\npolicies: {a: {extends: nobody}}\n", "nobody"),
    "a circle": ("version: 1\npolicies: {a: {extends: b}, b: {extends: a}}\n", "circle"),
    "an unknown mode": ("version: 1\npolicies: {a: {mode: lenient}}\n", "enforce or audit"),
    "a tabulator": ("version: 1\npolicies:\n\ta: {}\n", ":3:"),
    "nothing": ("", "version"),
    "not text": ("\x00\x01\x02", "1:"),
    "a missing file of names": ("version: 1\npolicies: {a: {allow_files: [missing.txt]}}\n", "missing.txt"),
    "a time without unit": ("version: 1\ngateway: {limits: {hello_timeout: 10}}\n", "10s"),
}


@pytest.mark.parametrize("text, expected", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.smoke
def test_policy_files(lab, text, expected):
    path = lab.folder / "bad.yaml"
    path.write_text(text)
    lines = wrong(lab, ["-c", path], expected)
    assert all("bad.yaml:" in line for line in lines if line.strip()), lines


def test_several_errors_in_one_run(lab):
    path = lab.folder / "bad.yaml"
    path.write_text("version: 1\npolicies:\n  a:\n    mode: lenient\n    alow: []\n    bind: tight\n")
    text = "\n".join(wrong(lab, ["-c", path], "lenient"))
    assert ":4:" in text and ":5:" in text and ":6:" in text


def test_a_missing_policy_file(lab):
    wrong(lab, ["-c", lab.folder / "nowhere.yaml"], "nowhere.yaml")


@pytest.mark.parametrize("options, expected", [
    (["--policy", "nobody"], "nobody"),
    (["--resolver", "not-an-address"], "--resolver"),
    (["--resolver", "198.18.0.53:99999"], "--resolver"),
    (["--allow-destination", "198.18.0.1/15"], "host bits are zero"),
    (["--frobnicate"], "frobnicate"),
], ids=lambda value: value[0] if isinstance(value, list) else None)
def test_options(lab, options, expected):
    [line] = wrong(lab, options, expected)
    assert line.startswith("sallyport exec: ")


def test_a_file_with_several_policies_wants_a_choice(lab):
    path = lab.config("version: 1\npolicies: {first: {allow: []}, second: {allow: []}}\n")
    [line] = wrong(lab, ["-c", path], "--policy")
    assert "first" in line or "second" in line or "--policy" in line


@pytest.mark.parametrize("arguments", [["exec"], ["exec", "--allow", "x.example"], ["exec", "--allow"]], ids=" ".join)
def test_no_command(lab, arguments):
    done = lab.direct([lab.binary, *arguments])
    assert done.status == 2 and done.err.count("\n") == 1 and done.err.startswith("sallyport exec: ")


def test_no_such_sallyport_command(lab):
    done = lab.direct([lab.binary, "frobnicate"])
    assert done.status == 2 and "frobnicate" in done.err


@pytest.mark.parametrize("user, path", [(None, "/nowhere/at/all/audit.jsonl"), (ORDINARY_USER, "/root/audit.jsonl")])
def test_without_its_audit_file_nothing_starts(lab, user, path):
    run = lab.exec(["echo", "started"], audit=False, options=["--audit", path], user=user, **ALLOWED)
    assert run.status == 125 and run.out == "" and path in run.err


def test_without_rules_everything_is_denied(lab):
    run = lab.exec([*CURL, *past_dns("allowed.example"), "https://allowed.example/"])
    assert run.status == 35 and run.audit.reasons() == {"no_rule"}


def test_the_commands_status_is_passed_on(lab, user):
    assert lab.exec(["sh", "-c", "exit 42"], user=user, **ALLOWED).status == 42
