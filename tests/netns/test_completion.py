"""Completion in the real shells; and that it offers what --help says, no more and no less."""
import re
import subprocess
from pathlib import Path

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import missing_programs


@pytest.fixture
def complete(lab, tmp_path):
    """What bash offers for a line; the last word is being typed."""
    script = subprocess.run([lab.binary, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "completion").write_text(script)

    def ask(*words, cwd=tmp_path):
        line = " ".join(f"'{word}'" for word in (str(lab.binary), *words))
        story = f"""source {tmp_path}/completion
            COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _sallyport sallyport "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
            complete -p sallyport >&2"""
        done = subprocess.run(["bash", "--norc", "-u", "-c", story], capture_output=True, text=True, cwd=cwd)
        assert done.returncode == 0 and done.stderr == "complete -F _sallyport sallyport\n", done.stderr
        return set(filter(None, done.stdout.split("\n")))

    return ask


def commands(lab):
    text = subprocess.run([lab.binary, "--help"], capture_output=True, text=True).stdout
    return set(re.findall(r"^  ([a-z-]+) ", text, flags=re.M))


def help_of(lab, command):
    return subprocess.run([lab.binary, command, "--help"], capture_output=True, text=True).stdout


def test_every_command_is_offered(lab, complete):
    assert complete("") == commands(lab) | {"--help", "--version"}
    assert complete("en") == {"enroll"} and complete("--v") == {"--version"}


def test_every_option_of_help_is_offered_and_none_besides(lab, complete):
    for command in sorted(commands(lab) - {"policy"}):
        told = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", help_of(lab, command), flags=re.M)) | {"--help"}
        assert {word for word in complete(command, "-") if word.startswith("--")} == told, command
    usage = help_of(lab, "policy")
    verbs = set(re.findall(r"^usage: sallyport policy (\S+)", usage)[0].split("|"))
    assert complete("policy", "") == verbs
    for verb in verbs:
        line = re.search(rf"^  {verb} (.*)$", usage, flags=re.M)[1]
        told = set(re.findall(r"\[(-\w|--[a-z-]+)", line)) | {"--help"}
        assert complete("policy", verb, "-") == told, verb


def test_every_option_that_is_offered_is_known(lab, complete):
    """Each is put to the program, which names those that it does not know."""
    for command in sorted(commands(lab) - {"policy", "exec", "oci-runtime", "cni", "docker", "podman"}):
        for option in complete(command, "--"):
            done = subprocess.run([lab.binary, command, option], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
            assert "no option" not in done.stderr, (command, option, done.stderr)


def test_whatever_reads_has_json(lab, complete):
    for command in ("status", "ps", "show", "verify", "log", "inspect"):
        assert "--json" in complete(command, "-"), command
    for verb in ("check", "test", "show", "diff"):
        assert "--json" in complete("policy", verb, "-"), verb


def test_bash_completion_finds_the_installed_script(lab, tmp_path):
    """As `meson install` puts it: by its name, when it is first needed."""
    library = Path("/usr/share/bash-completion/bash_completion")
    if not library.exists():
        pytest.skip("not installed: bash-completion (scripts/install-deps test)")
    folder = tmp_path / "completions"
    folder.mkdir()
    script = subprocess.run([lab.binary, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    (folder / "sallyport.bash").write_text(script)
    done = subprocess.run(["bash", "--norc", "-c", f"source {library}; _completion_loader sallyport; complete -p sallyport"],
                          capture_output=True, text=True, env={**lab.environment(), "BASH_COMPLETION_USER_DIR": str(tmp_path)})
    assert done.stdout == "complete -F _sallyport sallyport\n", done


def test_values_are_files_folders_or_nothing(complete, tmp_path):
    (tmp_path / "a file.yaml").touch()
    (tmp_path / "folder").mkdir()
    assert complete("gateway", "-c", "") >= {"a file.yaml", "folder"} == complete("gateway", "--config", "a") | {"folder"}
    assert complete("gateway", "--state", "") == {"folder"}
    assert complete("policy", "check", "a") == complete("inspect", "a") == complete("log", "a") == {"a file.yaml"}
    assert complete("gateway", "--drain", "") == complete("enroll", "--pid", "") == complete("ps", "") == set()
    assert complete("docker", "") == {"configure"} and "install" in complete("cni", "")


def test_a_command_of_its_own_is_completed_as_one(complete, tmp_path):
    (tmp_path / "a-file").touch()
    assert "bash" in complete("exec", "--", "bas") and "bash" in complete("exec", "bas")
    assert complete("exec", "--", "bash", "a-") == {"a-file"}
    assert complete("exec", "--", "bash", "--a") == set()


def test_containers_and_policies_are_those_there_are(gateway, complete):
    for _ in range(2):
        gateway.container("--policy", "agents")
    here = ["--control", gateway.control]
    for command in ("withdraw", "verify", "show", "allow", "set"):
        assert complete(command, *here, "") == {"box-1", "box-2"}, command
    assert complete("withdraw", *here, "box-2") == {"box-2"}
    assert complete("policy", "show", "-c", gateway.config, "") >= {"agents", "nothing", "agent", "airgapped"}
    assert complete("policy", "test", "-c", gateway.config, "--policy", "no") == {"nothing"}
    assert complete("withdraw", "--control", "/nowhere", "") == set()  # nobody to ask is no error message in the prompt


def test_zsh_and_fish_take_it(lab, tmp_path):
    missing = missing_programs("zsh", "fish")
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)} (scripts/install-deps test)")
    story = f"""autoload -Uz compinit; compinit -D -u; source <({lab.binary} completion zsh)
        emulate -L ksh; setopt ksharrays shwordsplit
        COMP_WORDS=(sallyport enroll --n); COMP_CWORD=2; _sallyport; print -r -- "${{COMPREPLY[@]}}"
        print -r -- "$_comps[sallyport]" """
    done = subprocess.run(["zsh", "-f", "-c", story], capture_output=True, text=True, cwd=tmp_path)
    assert "--netns" in done.stdout.split() and "--drain" not in done.stdout and done.stderr == "", done

    def fish(line):
        asked = subprocess.run(["fish", "--no-config", "-c", f"{lab.binary} completion fish | source; complete -C '{line}'"],
                               capture_output=True, text=True, cwd=tmp_path, env={**lab.environment(), "HOME": str(tmp_path)})
        assert asked.stderr == "", asked
        return {row.split("\t")[0] for row in asked.stdout.splitlines()}
    (tmp_path / "policy.yaml").touch()
    assert fish("sallyport ") >= commands(lab)
    assert fish("sallyport enroll --n") == {"--netns", "--name"} and fish("sallyport policy test --me") == {"--method"}
    assert fish("sallyport policy ") >= {"check", "import"} and fish("sallyport policy check pol") == {"policy.yaml"}


# --- status --------------------------------------------------------------------------------------------------------

def test_status_says_how_it_is(gateway):
    box = gateway.container("--policy", "agents")
    done = gateway.ask("status")
    version = gateway.told("status")["policy_version"]
    assert done.returncode == 0 and done.stdout.startswith(f"ready: policy {version}, containers 1, flows 0\nsallyport "), done
    assert "replaced" not in done.stdout
    gateway.await_new_worker(gateway.kill_worker(), seconds=10)
    gateway.write_policy("policies: {a: {allow: [*.example]}}\n")
    gateway.ask("reload")
    said = gateway.ask("status").stdout
    assert "replaced 1 time\n" in said and "the policy file has errors" in said, said
    told = gateway.told("status")
    assert told["ready"] and told["reload_failed"] and not told["audit_failing"] and told["containers"] == 1, told
    assert box.curl("https://allowed.example/").returncode == 0


def test_status_of_nobody(lab):
    done = lab.direct([lab.binary, "status", "--control", "/nowhere"])
    assert done.status == 2 and "/nowhere" in done.err and done.out == ""
    for wrong in (["--frob"], ["more"], ["--control"]):
        assert lab.direct([lab.binary, "status", *wrong]).status == 2
