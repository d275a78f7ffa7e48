"""What packaging/kubernetes and doc/ENGINES.md show is true: files are valid, policies load, commands and options exist."""
import json
import re
import subprocess
from pathlib import Path

import pytest

import lab as laboratory

KUBERNETES = laboratory.ROOT / "packaging/kubernetes"
PAGE = (laboratory.ROOT / "doc/ENGINES.md").read_text()


@pytest.fixture
def binary(request):
    return str(Path(request.config.getoption("--binary") or laboratory.ROOT / "build/cli/sallyport").resolve())


@pytest.fixture
def yaml():
    return pytest.importorskip("yaml", reason="python3-yaml is not installed (scripts/install-deps test)")


def check_policy(binary, text, folder):
    file = folder / "sallyport.yaml"
    file.write_text(text)
    done = subprocess.run([binary, "policy", "check", str(file)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done


def documents(yaml):
    return {one["kind"]: one for one in yaml.safe_load_all((KUBERNETES / "sallyport.yaml").read_text())}


def test_the_cluster_s_policy_loads(binary, yaml, tmp_path):
    check_policy(binary, documents(yaml)["ConfigMap"]["data"]["sallyport.yaml"], tmp_path)


def test_the_daemon_set_holds_together(binary, yaml):
    pod = documents(yaml)["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["hostNetwork"] and pod["hostPID"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        command = container["args"]
        known = subprocess.run([binary, command[0], "--help"], capture_output=True, text=True).stdout
        for option in (word for word in command if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), (command[0], option)
    [netns] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "netns"]
    assert netns["mountPropagation"] == "HostToContainer"
    example = yaml.safe_load((KUBERNETES / "pod.yaml").read_text())
    assert example["metadata"]["annotations"] == {"sallyport.policy": "agents"}


def test_the_page_s_files_are_valid(binary, yaml, tmp_path):
    policy, compose, networks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)
    check_policy(binary, policy, tmp_path)
    check_policy(binary, "version: 1\npolicies: {agents: {}}\n" + networks, tmp_path)  # what it shows is part of a file
    assert yaml.safe_load(compose)["services"]["agent"]["runtime"] == "sallyport"


def test_the_page_s_commands_exist(binary):
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.S) for line in block.splitlines()]
    ours = [line.split("#")[0].split() for line in lines if re.match(r"(sudo )?sallyport ", line)]
    assert len(ours) > 8
    for words in ours:
        words = words[words.index("sallyport") + 1:]
        known = subprocess.run([binary, words[0], "--help"], capture_output=True, text=True).stdout
        assert known, words
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}(?![\w-])", known), (words[0], option)


def test_the_page_s_sentences_are_the_program_s():
    source = "".join(path.read_text() for folder in ("redirect", "cli", "gateway")
                     for path in (laboratory.ROOT / folder).rglob("*.c"))
    source = re.sub(r'"\s*\n\s*"', "", source)
    table = PAGE[PAGE.index("## When a container does not start"):]
    said = [part.strip(" …`\"") for row in re.findall(r"^\| `(.*?)`", table, flags=re.M) for part in row.split("…")]
    said = [part for part in said if len(part) > 8]
    assert len(said) >= 6
    for part in said:
        part = part.replace('"', '\\"').lstrip(", ")
        assert part in source, part
