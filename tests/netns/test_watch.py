"""Files that are watched: each way in which they are changed, and what is broken."""
import os
import shutil

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import NAME_SERVER, wait_until
from test_gateway_upgrade import upgrade

HEAD = f"version: 1\ngateway: {{resolvers: [{NAME_SERVER}], watch: true}}\n" \
       'destinations: {allow: [198.18.0.0/15, "2001:db8::/32"]}\n'
ALLOWED = HEAD + "policies: {p: {allow: [allowed.example]}}\n"
OTHER = HEAD + "policies: {p: {allow: [big.example]}}\n"
WITH_FILE = HEAD + "policies: {p: {allow_files: [names.txt]}}\n"


@pytest.fixture
def watched(make_gateway):
    """Starts the gateway with a folder of files and returns it."""
    def make(text, files=(), options=()):
        gateway = make_gateway(start=False, options=options)
        gateway.config.write_text(text)
        for name, content in dict(files).items():
            (gateway.folder / name).write_text(content)
        return gateway.start()
    return make


def rules(gateway):
    return [rule["rule"] for rule in gateway.told("show", "--policy", "p")["rules"]]


def await_rules(gateway, wanted):
    wait_until(lambda: rules(gateway) == wanted, f"{wanted} in force\n{gateway.log()}")


def in_place(path, text):
    path.write_text(text)


def renamed_over(path, text):
    path.with_name("new").write_text(text)
    path.with_name("new").rename(path)


def removed_and_written(path, text):
    path.unlink()
    path.write_text(text)


WAYS = [in_place, renamed_over, removed_and_written]


@pytest.mark.parametrize("change", WAYS)
def test_the_policy_file(watched, change):
    gateway = watched(ALLOWED)
    assert rules(gateway) == ["allowed.example"]
    for text, wanted in [(OTHER, ["big.example"]), (ALLOWED, ["allowed.example"]), (OTHER, ["big.example"])]:
        change(gateway.config, text)
        await_rules(gateway, wanted)


@pytest.mark.parametrize("change", WAYS)
def test_a_file_of_names(watched, change):
    gateway = watched(WITH_FILE, {"names.txt": "a.example\n"})
    assert rules(gateway) == ["a.example"]
    change(gateway.folder / "names.txt", "b.example\n")
    await_rules(gateway, ["b.example"])


def test_a_file_that_a_new_policy_names(watched):
    gateway = watched(ALLOWED, {"names.txt": "a.example\n"})
    in_place(gateway.config, WITH_FILE)
    await_rules(gateway, ["a.example"])
    in_place(gateway.folder / "names.txt", "b.example\n")
    await_rules(gateway, ["b.example"])


def test_the_volume_of_a_config_map(make_gateway):
    """Kubernetes: the files are links to ..data/FILE, and ..data is a link that is exchanged."""
    gateway = make_gateway(start=False)
    volume = gateway.folder / "volume"

    def put(version, text, names):
        folder = volume / f"..{version}"
        folder.mkdir(parents=True)
        (folder / "policy.yaml").write_text(text)
        (folder / "names.txt").write_text(names)
        (volume / "..data_tmp").symlink_to(folder.name)
        (volume / "..data_tmp").rename(volume / "..data")

    put(1, WITH_FILE, "one.example\n")
    for name in ("policy.yaml", "names.txt"):
        (volume / name).symlink_to(f"..data/{name}")
    gateway.config = volume / "policy.yaml"
    gateway.start()
    assert rules(gateway) == ["one.example"]
    for version in range(2, 6):
        put(version, WITH_FILE, f"v{version}.example\n")
        shutil.rmtree(volume / f"..{version - 1}")
        await_rules(gateway, [f"v{version}.example"])
    put(7, ALLOWED, "")
    await_rules(gateway, ["allowed.example"])


def test_a_folder_on_the_way_is_a_link(make_gateway):
    gateway = make_gateway(start=False)
    for release, text in (("1", ALLOWED), ("2", OTHER)):
        (gateway.folder / release).mkdir()
        (gateway.folder / release / "policy.yaml").write_text(text)
    (gateway.folder / "current").symlink_to("1")
    gateway.config = gateway.folder / "current" / "policy.yaml"
    gateway.start()
    (gateway.folder / "next").symlink_to(gateway.folder / "2")
    (gateway.folder / "next").rename(gateway.folder / "current")
    await_rules(gateway, ["big.example"])
    assert os.readlink(gateway.folder / "current").endswith("2")


def test_what_is_the_same_and_what_is_not_ours_wakes_nothing(watched):
    gateway = watched(ALLOWED)
    before = gateway.log()
    for _ in range(3):
        renamed_over(gateway.config, ALLOWED)
    (gateway.folder / "another").write_text("x")
    renamed_over(gateway.config, OTHER)  # this one does, and comes last
    await_rules(gateway, ["big.example"])
    news = gateway.log()[len(before):]
    assert news.count("is loaded") == 1, news


def test_a_broken_file_changes_nothing_and_is_told_once(watched):
    gateway = watched(ALLOWED)
    for text in ("version: 1\npolicies: {p: {alow: []}}\n", "version: 1\npolicies: {p: {alow: []}}\n# more\n"):
        in_place(gateway.config, text)
        wait_until(lambda: 'policy.yaml:2:16: unknown key "alow"' in gateway.log(), "the error on the log")
    gateway.config.unlink()
    wait_until(lambda: "No such file" in gateway.log(), "another error on the log")
    assert rules(gateway) == ["allowed.example"]
    in_place(gateway.config, OTHER)
    await_rules(gateway, ["big.example"])
    assert gateway.log().count('unknown key "alow"') == 1


def test_a_reload_waits_for_the_one_under_way(watched):
    gateway = watched(WITH_FILE, {"names.txt": "a.example\n"})
    for number in range(5):
        (gateway.folder / "names.txt").write_text("".join(f"n{number}-{i}.example\n" for i in range(20000)))
        gateway.told("reload")
        assert gateway.told("show", "--policy", "p")["rules"] == [
            {"file": str(gateway.folder / "names.txt"), "allow_rules": 20000, "deny_rules": 0}]


def test_a_missing_file_of_names_appears(watched):
    gateway = watched(ALLOWED)
    in_place(gateway.config, HEAD + "policies: {p: {allow_files: [folder/names.txt]}}\n")
    wait_until(lambda: "folder/names.txt" in gateway.log(), "the error on the log")
    (gateway.folder / "folder").mkdir()
    (gateway.folder / "folder" / "names.txt").write_text("late.example\n")
    await_rules(gateway, ["late.example"])


def test_by_option_and_until_the_file_says_no_more(watched):
    gateway = watched(ALLOWED.replace(", watch: true", ""), options=["--watch"])
    in_place(gateway.config, OTHER.replace(", watch: true", ""))
    await_rules(gateway, ["big.example"])
    quiet = watched(ALLOWED)
    in_place(quiet.config, OTHER.replace("true", "false"))
    await_rules(quiet, ["big.example"])
    in_place(quiet.config, ALLOWED)
    quiet.told("reload")
    assert rules(quiet) == ["allowed.example"]


def test_the_next_gateway_watches_too(watched):
    gateway = watched(ALLOWED)
    gateway.told("deny", "--policy", "p", "x.example")
    upgrade(gateway)
    in_place(gateway.config, OTHER)
    await_rules(gateway, ["big.example", "x.example"])
    gateway.told("deny", "--policy", "p", "y.example")
    upgrade(gateway)
    assert rules(gateway) == ["big.example", "x.example", "y.example"]


def test_a_change_at_run_time_outlives_a_changed_file(watched):
    gateway = watched(ALLOWED)
    gateway.told("deny", "--policy", "p", "x.example")
    in_place(gateway.config, OTHER)
    await_rules(gateway, ["big.example", "x.example"])
