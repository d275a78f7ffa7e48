"""Run-time changes: allow, deny, set, forget and show, over flows that are up, restarts and deaths."""
import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401


def changed(gateway, *words):
    return gateway.told(*words)["changed"]


def refused(gateway, *words):
    done = gateway.ask(words[0], *words[1:])
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done
    return done.stderr


def reaches(box, name, scheme="https"):
    return box.curl(f"{scheme}://{name}/").returncode == 0


def test_allow_and_deny_are_in_force_when_the_command_returns(gateway):
    box = gateway.container("--policy", "agents")
    assert reaches(box, "allowed.example") and not reaches(box, "denied.example")
    assert changed(gateway, "allow", box.id, "denied.example")
    assert reaches(box, "denied.example")
    assert changed(gateway, "deny", box.id, "allowed.example")
    assert not reaches(box, "allowed.example")
    assert not changed(gateway, "deny", box.id, "allowed.example")  # said already

    assert changed(gateway, "allow", box.id, "allowed.example")  # the opposite of what was said at run time
    assert reaches(box, "allowed.example")
    assert changed(gateway, "allow", "--remove", box.id, "denied.example")
    assert not reaches(box, "denied.example")
    assert changed(gateway, "forget", box.id) and not changed(gateway, "forget", box.id)
    assert reaches(box, "allowed.example") and not reaches(box, "denied.example")


def test_a_container_is_called_by_id_beginning_or_name_and_others_are_left_alone(gateway):
    box = gateway.container("--policy", "agents", "--name", "web")
    other = gateway.container("--policy", "agents", "--name", "worker")
    assert gateway.told("deny", "web", "allowed.example")["container"] == "web"
    assert not reaches(box, "allowed.example") and reaches(other, "allowed.example")
    later = gateway.container("--policy", "agents", "--name", "web")  # its successor
    assert not reaches(later, "allowed.example")
    assert "nothing is enrolled as box-" in refused(gateway, "deny", "box-", "allowed.example")  # two begin so
    gateway.told("withdraw", other.id)
    gateway.told("withdraw", later.id)
    assert gateway.told("deny", "box-", "big.example")["container"] == box.id
    assert "nothing is enrolled as stranger" in refused(gateway, "allow", "stranger", "a.example")


def test_a_policy_is_changed_for_all_that_have_it(make_gateway):
    gateway = make_gateway("policies:\n  base: {allow: [allowed.example]}\n  more: {extends: base}\n"
                           "  other: {allow: [allowed.example]}\n")
    base, more, other = (gateway.container("--policy", policy) for policy in ("base", "more", "other"))
    assert changed(gateway, "deny", "--policy", "base", "allowed.example")
    assert not reaches(base, "allowed.example") and not reaches(more, "allowed.example") and reaches(other, "allowed.example")
    assert changed(gateway, "forget", "--policy", "base")
    assert reaches(base, "allowed.example") and reaches(more, "allowed.example")
    assert "there is no policy" in refused(gateway, "deny", "--policy", "nowhere", "a.example")
    assert "denies everything" in refused(gateway, "allow", "--policy", "deny", "a.example")


def test_a_container_is_set_to_another_policy_and_back(gateway):
    box = gateway.container("--policy", "nothing")
    assert not reaches(box, "allowed.example")
    assert changed(gateway, "set", box.id, "agents")
    assert reaches(box, "allowed.example")
    assert [c["policy"] for c in gateway.told("ps")] == ["agents"]
    assert "there is no policy" in refused(gateway, "set", box.id, "nowhere")
    assert changed(gateway, "set", "--remove", box.id)
    assert not reaches(box, "allowed.example")


def test_bad_rules_are_refused_in_the_words_of_the_policy_file(gateway):
    box = gateway.container("--policy", "agents")
    before = gateway.told("show", box.id)
    for rule, hint in [("http//x", "http//x"), ("münchen.example", 'write "xn--mnchen-3ya.example"'), ("tcp://a.example", "port")]:
        assert hint in refused(gateway, "allow", box.id, "good.example", rule), rule
    assert gateway.told("show", box.id) == before


def test_what_a_file_denies_stays_denied_and_the_answer_says_so(make_gateway):
    gateway = make_gateway('policies:\n  agents: {allow: ["*"], deny: [denied.example]}\n')
    box = gateway.container("--policy", "agents")
    warning = gateway.told("allow", box.id, "denied.example")["warning"]
    assert "deny beats allow" in warning and f"{gateway.config}:5" in warning
    assert not reaches(box, "denied.example")


def test_the_rule_has_the_same_name_everywhere(gateway):
    box = gateway.container("--policy", "agents")
    version = gateway.told("deny", box.id, "http://allowed.example")["policy_version"]
    body = box.curl("http://allowed.example/").stdout
    assert '"http://allowed.example" (set at run time by uid 0, 20' in body, body
    shown = gateway.told("show", box.id)
    rule = shown["rules"][-1]
    assert rule["rule"] == "http://allowed.example" and rule["action"] == "deny"
    assert rule["file"].startswith("set at run time by uid 0, 20") and shown["policy_version"] == version
    gateway.await_event(lambda events: [e for e in events if e["rule.name"] == "http://allowed.example" and e["event.outcome"] == "failure"
                                        and e["rule.version"] == version])
    first = next(r for r in shown["rules"] if r["rule"] == "big.example")
    assert (first["file"], first["line"]) == (str(gateway.config), 6)


def test_show_says_who_is_who(gateway):
    box = gateway.container("--policy", "agents", "--name", "web", "--image", "an/image")
    gateway.told("set", "web", "nothing")
    gateway.told("allow", box.id, "allowed.example", "tcp://ssh.example:22")
    text = gateway.ask("show", box.id).stdout
    assert f"container {box.id}, name web, image an/image: sealed, served" in text
    assert "policy nothing: mode enforce, dns allowed, bind redial" in text
    assert "allow  tcp://ssh.example:22" in text and "set at run time by uid 0" in text
    assert "changed at run time for web: set to policy nothing by uid 0" in text
    assert f"changed at run time for {box.id}: 2 rules" in text
    policy = gateway.told("show", "--policy", "agents")
    assert policy["policy"] == "agents" and len(policy["rules"]) == 4 and policy["changes"] == []
    assert "no container has that name" in refused(gateway, "show", "stranger")


def test_all_that_was_changed_is_listed_and_what_is_for_nobody_goes(gateway):
    box = gateway.container("--policy", "agents", "--name", "web")
    gone = gateway.container("--policy", "agents")
    gateway.told("deny", gone.id, "a.example")
    gateway.told("deny", "web", "b.example")
    gateway.told("allow", "--policy", "agents", "c.example")
    assert not gateway.told("forget", "--gone")["changed"]
    gateway.told("withdraw", gone.id)
    text = gateway.ask("show").stdout
    assert f"changed at run time for {gone.id} (not enrolled): 1 rule\ndeny   a.example " in text, text
    assert "changed at run time for web: 1 rule" in text and "allow  c.example" in text
    assert gateway.told("forget", "--gone")["changed"]
    assert [change.get("container") for change in gateway.told("show")["changes"]] == ["web", None]
    assert gateway.told("forget", "web")["changed"] and gateway.told("forget", "--policy", "agents")["changed"]
    assert gateway.told("show")["changes"] == [] and reaches(box, "allowed.example")


def test_a_port_that_is_allowed_at_run_time_is_open(gateway):
    box = gateway.container("--policy", "nothing")
    assert box.do("timeout", "5", "ssh-keyscan", "ssh.example").stdout == ""
    assert changed(gateway, "allow", box.id, "tcp://ssh.example:22")
    assert "ssh-" in box.do("timeout", "5", "ssh-keyscan", "ssh.example").stdout
    assert changed(gateway, "deny", box.id, "tcp://ssh.example:22")
    assert box.do("timeout", "5", "ssh-keyscan", "ssh.example").stdout == ""


def test_changes_outlive_reload_worker_and_gateway(gateway):
    box = gateway.container("--policy", "agents")
    gateway.told("allow", box.id, "denied.example")
    gateway.told("deny", "--policy", "agents", "allowed.example")

    def as_changed():
        return reaches(box, "denied.example") and not reaches(box, "allowed.example")
    assert as_changed()
    gateway.told("reload")
    assert as_changed()
    gateway.await_new_worker(gateway.kill_worker())
    assert as_changed()
    gateway.kill()
    gateway.start()
    assert as_changed()
    assert {c.get("container", c.get("policy")) for c in gateway.told("show", box.id)["changes"]} == {"agents", box.id}


def test_a_policy_that_went_leaves_its_container_closed(gateway):
    box = gateway.container("--policy", "nothing")
    gateway.told("set", box.id, "agents")
    gateway.write_policy("policies:\n  nothing: {}\n  other: {allow: [allowed.example]}\n")
    gateway.told("reload")
    assert not reaches(box, "allowed.example")
    assert f'{box.id} was set to policy "agents", which is there no more' in gateway.log()
    assert changed(gateway, "set", box.id, "other")
    assert reaches(box, "allowed.example")


def test_a_spoilt_file_of_changes_starts_nothing(gateway):
    box = gateway.container("--policy", "agents")
    gateway.told("deny", box.id, "allowed.example")
    gateway.stop()
    path = gateway.state / "changes.yaml"
    path.write_text(path.read_text().replace("deny:", "dney:"))
    gateway.start(wait=False)
    assert gateway.process.wait(10) == 1
    log = gateway.log()
    assert 'changes.yaml:7:10: unknown key "dney" in a rule: did you mean "deny"?' in log and "repair that file, or remove it" in log, log
    path.unlink()
    gateway.start()
    assert reaches(box, "allowed.example")


@pytest.mark.parametrize("words, hint", [
    (["allow"], "name the container"), (["deny", "box"], "then the rules"), (["set", "box"], "then the policy"),
    (["forget", "--gone", "x"], "name none"), (["deny", "--gone", "x", "y"], "no option"), (["show", "a", "b"], "name the container"),
    (["set", "--policy", "box", "x"], "leave --policy out"), (["forget"], "name the container"),
    (["forget", "--remove", "x"], "leave --remove out"), (["show", "--frob", "x"], "no option"), (["allow", "--control"], "needs a value"),
])
def test_wrong_use_is_one_line(lab, words, hint):
    done = lab.direct([lab.binary, *words])
    assert done.status == 2 and hint in done.err and done.err.count("\n") == 1, done


@pytest.mark.parametrize("request_text, hint", [
    ({"do": "show", "container": "x", "rules": ["a"]}, "only allow and deny"), ({"do": "show", "remove": True}, "only allow"),
    ({"do": "forget", "gone": True, "policy": "x"}, "no name"), ({"do": "deny", "gone": True, "rules": ["a.example"]}, "goes with forget"),
    ({"do": "forget"}, "whom it is about"), ({"do": "allow", "container": "x"}, "rules"), ({"do": "allow", "container": "x", "rules": []}, "at least one"),
    ({"do": "deny", "container": "x", "rules": [1]}, "list of texts"), ({"do": "deny", "rules": ["a.example"]}, "whom it is about"),
    ({"do": "deny", "container": "x", "policy": "y", "rules": ["a.example"]}, "whom it is about"),
    ({"do": "set", "container": "x"}, "set needs"), ({"do": "set", "policy": "x"}, "set needs"),
    ({"do": "show", "container": ""}, "empty"), ({"do": "forget", "container": "x", "y": 1}, "y"),
    ({"do": "allow", "container": "x" * 200, "rules": ["a.example"]}, "longer than"),
])
def test_bad_requests_are_answered(gateway, request_text, hint):
    answer = gateway.request(request_text)
    assert answer["ok"] is False and answer["code"] == "invalid" and hint in answer["error"], answer
