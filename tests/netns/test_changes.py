"""What is done to the gateway is in its audit log: what, when, and by whom."""
import os
import signal

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import wait_until

POLICY = """
policies:
  agents: {allow: [allowed.example]}
  others: {allow: [other.example]}
default: deny
"""
ROOT = str(os.getuid())


def actions(gateway, **fields):
    """Of the changes that have these fields, in order."""
    changes = gateway.audit(complete=False).changes
    return [each["event.action"] for each in changes if all(each.get(name.replace("_", ".", 1)) == value for name, value in fields.items())]


def await_change(gateway, action, count=1):
    wait_until(lambda: actions(gateway).count(action) >= count, f"the change {action}")
    return [each for each in gateway.audit(complete=False).changes if each["event.action"] == action][-1]


def test_every_change_is_an_event(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY)
    started = await_change(gateway, "gateway-started")
    assert "user.id" not in started and started["event.type"] == ["info"] and started["rule.version"]
    box = gateway.container("--policy", "agents", "--name", "worker-bee")
    enrolled = await_change(gateway, "container-enrolled")
    assert (enrolled["container.id"], enrolled["container.name"], enrolled["rule.ruleset"]) == (box.id, "worker-bee", "agents")
    assert enrolled["user.id"] == ROOT and enrolled["event.outcome"] == "success" and enrolled["sallyport.detail"] == "sealed"
    gateway.told("allow", box.id, "other.example", "*.more.example")
    added = [each for each in (await_change(gateway, "allow-added", 2), *gateway.audit(complete=False).changes) if each["event.action"] == "allow-added"]
    assert {each["rule.name"] for each in added} == {"other.example", "*.more.example"}
    assert all(each["container.name"] == "worker-bee" and each["user.id"] == ROOT for each in added)
    assert added[0]["rule.version"] == gateway.status()["policy_version"] != started["rule.version"]
    gateway.told("allow", "--remove", box.id, "other.example")
    assert await_change(gateway, "allow-removed")["rule.name"] == "other.example"
    gateway.told("deny", "--policy", "agents", "bad.example")
    denied = await_change(gateway, "deny-added")
    assert (denied["rule.ruleset"], denied["rule.name"]) == ("agents", "bad.example") and "container.id" not in denied
    gateway.told("set", box.id, "others")
    assert await_change(gateway, "policy-set")["rule.ruleset"] == "others"
    gateway.told("forget", box.id)
    assert await_change(gateway, "changes-forgotten")["container.id"] == box.id
    gateway.told("withdraw", box.id)
    assert await_change(gateway, "container-withdrawn")["user.id"] == ROOT
    assert gateway.stop() == 0
    audit = gateway.audit()
    assert audit.changes[-1]["event.action"] == "gateway-stopped" and audit.changes[-1]["user.id"] == ROOT
    assert len(audit.all) == len(audit) + len(audit.changes)


def test_what_changes_nothing_is_no_event(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    gateway.told("allow", box.id, "other.example")
    gateway.told("allow", box.id, "other.example")
    gateway.told("forget", "--policy", "agents")
    assert gateway.ask("set", box.id, "nonsense").returncode
    gateway.told("withdraw", box.id)
    await_change(gateway, "container-withdrawn")
    assert actions(gateway) == ["gateway-started", "container-enrolled", "allow-added", "container-withdrawn"]


@pytest.mark.parametrize("how", ["asked", "a signal", "a file"])
def test_a_policy_that_is_loaded_or_refused(make_gateway, how):  # noqa: F811
    gateway = make_gateway(POLICY, options=["--watch"] if how == "a file" else [])

    def load(text):
        gateway.write_policy(text)
        if how == "asked":
            gateway.ask("reload")
        elif how == "a signal":
            gateway.process.send_signal(signal.SIGHUP)
    load(POLICY.replace("other.example", "more.example"))
    loaded = await_change(gateway, "policy-loaded")
    wait_until(lambda: gateway.status()["policy_version"] == loaded["rule.version"], "the version that is told")
    load("policies: {agents: {allow: [*.unquoted]}}\n")
    refused = await_change(gateway, "policy-refused")
    assert refused["event.outcome"] == "failure" and f"{gateway.config}:4:" in refused["sallyport.detail"]
    assert refused["rule.version"] == loaded["rule.version"]  # stays in force
    assert all(each.get("user.id") == (None if how == "a file" else ROOT) for each in (loaded, refused))
    if how == "a file":
        assert loaded["sallyport.detail"] == "a file of it has changed"


def test_a_container_that_ends_by_itself(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    box.close()
    ended = await_change(gateway, "container-ended")
    assert ended["container.id"] == box.id and "user.id" not in ended


def test_an_upgrade(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY)
    await_change(gateway, "gateway-started")
    assert gateway.ask("upgrade").returncode == 0
    await_change(gateway, "gateway-upgraded")


def test_changes_while_there_is_no_worker_are_told_by_the_next(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    before = gateway.status()
    os.kill(before["worker"], signal.SIGSTOP)  # until it is given up
    asked = [gateway.ask("deny", "--policy", "agents", f"bad{i}.example") for i in range(1)]
    gateway.await_new_worker(before, 40)
    assert asked[0].returncode == 0
    assert await_change(gateway, "deny-added")["rule.name"] == "bad0.example"
    assert box.curl("https://allowed.example/").returncode == 0


def test_log_shows_them(make_gateway, lab):  # noqa: F811
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    gateway.told("deny", box.id, "bad.example")
    await_change(gateway, "deny-added")
    gateway.write_policy("policies: {agents: {allow: [*.unquoted]}}\n")
    gateway.ask("reload")
    await_change(gateway, "policy-refused")
    shown = lab.host.output(lab.binary, "log", gateway.audit_path)
    assert f"change      {box.id}  deny-added  bad.example  by uid {ROOT}" in shown
    assert "failure     -  policy-refused  by uid" in shown
    assert lab.host.output(lab.binary, "log", "--denied", gateway.audit_path) == ""
    lab.host.run(lab.binary, "policy", "suggest", gateway.audit_path)
