"""Debian's Prometheus beside a live gateway: it scrapes, plain and over TLS; our rules load and fire; our dashboard asks for what
there is."""
import json
import re
import shutil
import subprocess
import time
import urllib.parse

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import ROOT, missing_programs, wait_until
from metrics import Endpoint, parse, value
from test_admin import MUTUAL, PLAIN, Files

PACKAGING = ROOT / "packaging"
RULES = PACKAGING / "prometheus/sallyport.rules.yml"
DASHBOARD = PACKAGING / "grafana/sallyport.json"

pytestmark = pytest.mark.skipif(bool(missing_programs("prometheus", "promtool")), reason="not installed: prometheus (scripts/install-deps test)")


class Prometheus:
    """In the gateway's own namespace, at 127.0.0.1:9090."""

    def __init__(self, gateway, scrape):
        self.host, folder = gateway.lab.host, gateway.folder
        shutil.copy(RULES, folder / "sallyport.rules.yml")
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\n"
            f"rule_files: [sallyport.rules.yml]\nscrape_configs:\n{scrape}")
        self.log = folder / "prometheus.log"
        self.process = self.host.spawn(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", "--web.listen-address=127.0.0.1:9090",
             "--log.level=debug"], stdout=subprocess.DEVNULL, stderr=open(self.log, "w"))
        wait_until(lambda: self.host.run("curl", "-sf", "--noproxy", "*", "http://127.0.0.1:9090/-/ready", check=False,
                                         capture_output=True).returncode == 0 or self.process.poll() is not None, "prometheus", 60)
        assert self.process.poll() is None, self.log.read_text()

    def ask(self, path, **parameters):
        answer = json.loads(self.host.output("curl", "-s", "--noproxy", "*",
                                             f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression):
        """{labels: value} of an instant query."""
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in self.ask("query", query=expression)["result"]}

    def targets(self):
        return self.ask("targets")["activeTargets"]

    def await_up(self):
        def scraped():
            targets = self.targets()
            return targets and all(target["health"] == "up" for target in targets)
        try:
            wait_until(scraped, "a scrape", 60)
        except TimeoutError:
            pytest.fail(f"{self.targets()}\n{self.log.read_text()[-4000:]}")

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_prometheus():
    started = []

    def start(gateway, scrape):
        started.append(Prometheus(gateway, scrape))
        return started[-1]

    yield start
    for one in started:
        one.close()


def scrape_config():
    """What the packaged file says, its first job."""
    text = (PACKAGING / "prometheus/sallyport.scrape.yml").read_text()
    return "".join(f"  {line}\n" for line in text.splitlines() if not line.startswith("#"))


def test_it_scrapes_every_series_and_types_them(make_gateway, start_prometheus):
    gateway = make_gateway(settings=PLAIN)
    box = gateway.container("--policy", "agents")
    box.curl("https://allowed.example/")
    box.curl("https://denied.example/")
    ours = Endpoint(gateway).metrics()
    prometheus = start_prometheus(gateway, scrape_config())
    prometheus.await_up()
    names = {name for name, _ in ours}
    wait_until(lambda: names <= set(prometheus.ask("label/__name__/values")), "all series", 60)
    for labels, number in prometheus.query('{__name__=~"sallyport_decisions_total|sallyport_containers|sallyport_policy.*"}').items():
        labels = dict(labels)
        name = labels.pop("__name__")
        del labels["instance"], labels["job"]
        assert ours[name, frozenset(labels.items())] == number, name
    types = {name: about[0]["type"] for name, about in prometheus.ask("metadata").items() if name.startswith("sallyport_")}
    families = re.findall(r"# TYPE (\w+) (\w+)", Endpoint(gateway).curl("/metrics").stdout)
    assert types == dict(families)
    assert all(about[0]["help"] for name, about in prometheus.ask("metadata").items() if name.startswith("sallyport_"))


def test_it_scrapes_over_tls_with_a_certificate_of_its_own(make_gateway, start_prometheus):
    gateway = make_gateway(start=False, settings=MUTUAL)
    files = Files(gateway)
    gateway.start()
    scrape = f"""
  - job_name: sallyport
    scheme: https
    tls_config:
      ca_file: {files.lab}/ca.pem
      cert_file: {files.lab}/denied.example.pem
      key_file: {files.lab}/denied.example.key
      server_name: allowed.example
    static_configs: [{{targets: [127.0.0.1:9464]}}]
"""
    prometheus = start_prometheus(gateway, scrape)
    prometheus.await_up()
    assert list(prometheus.query("sallyport_worker_ready").values()) == [1]
    without = scrape.replace(f"      cert_file: {files.lab}/denied.example.pem\n      key_file: {files.lab}/denied.example.key\n", "")
    prometheus.close()
    prometheus = start_prometheus(gateway, without)
    wait_until(lambda: any(target["health"] == "down" for target in prometheus.targets()), "a scrape that is refused", 60)
    assert "certificate" in prometheus.targets()[0]["lastError"]


def test_a_dead_worker_shows_and_alerts_follow(make_gateway, start_prometheus):
    """The rules in the real program: a policy file with errors is pending at once, a gateway that is gone too."""
    gateway = make_gateway(settings=PLAIN)
    prometheus = start_prometheus(gateway, scrape_config())
    prometheus.await_up()
    assert {rule["name"] for rule in prometheus.ask("rules")["groups"][0]["rules"]} == set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert all(rule["health"] != "err" for rule in prometheus.ask("rules")["groups"][0]["rules"])
    before = gateway.kill_worker()
    gateway.await_new_worker(before, seconds=10)
    wait_until(lambda: list(prometheus.query("sallyport_worker_restarts_total").values()) == [1], "the restart", 60)
    gateway.write_policy("policies: {agents: {allow: [*.example]}}\n")
    gateway.ask("reload")

    def alerts():
        return {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
    wait_until(lambda: alerts() == {"SallyportPolicyReloadFailed"}, "the alert", 60)
    gateway.stop()
    wait_until(lambda: "SallyportDown" in alerts(), "the alert", 60)


# --- what needs no gateway -----------------------------------------------------------------------------------------

def promtool(*argv, **options):
    return subprocess.run(["promtool", *map(str, argv)], capture_output=True, text=True, **options)


def test_the_rules_are_valid_and_fire_when_they_should():
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert checked.returncode == 0 and "SUCCESS" in checked.stdout, checked
    tried = promtool("test", "rules", PACKAGING / "prometheus/sallyport.test.yml")
    assert tried.returncode == 0, tried
    for alert in re.findall(r"alert: (\w+)", RULES.read_text()):  # both ways round
        text = (PACKAGING / "prometheus/sallyport.test.yml").read_text()
        assert f"alertname: {alert}, exp_alerts: []" in text and f'alertname="{alert}"' in text, alert


def test_the_older_format_passes_promtools_check(make_gateway):
    gateway = make_gateway(settings=PLAIN)
    gateway.container("--policy", "agents").curl("https://allowed.example/")
    text = Endpoint(gateway).curl("/metrics", "-H", "Accept: text/plain").stdout
    checked = promtool("check", "metrics", input=text)
    assert checked.returncode == 0 and checked.stdout + checked.stderr == "", checked
    newer = Endpoint(gateway).curl("/metrics").stdout
    assert parse(text + "# EOF\n").keys() == parse(newer).keys()


def expressions():
    """Of every panel, variable and annotation of the dashboard."""
    def walk(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("expr", "definition"):
                    yield inner
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)
    return list(walk(json.loads(DASHBOARD.read_text())))


def test_dashboard_and_rules_ask_for_what_there_is(make_gateway, start_prometheus):
    """Every expression names metrics and label values that the gateway has, and Prometheus understands it."""
    gateway = make_gateway(settings=PLAIN)
    samples = Endpoint(gateway).metrics()
    names, words = {name for name, _ in samples}, {}
    for name, labels in samples:
        for key, word in labels:
            words.setdefault((name, key), set()).add(word)
    words["sallyport_decisions_total", "decision"] = {"allowed", "denied", "would_deny"}
    words["sallyport_decisions_total", "reason"] = set(re.findall(r'\] = "(\w+)"', (ROOT / "acl/reason.c").read_text()))
    prometheus = start_prometheus(gateway, scrape_config())
    asked = expressions() + [rule["query"] for rule in prometheus.ask("rules")["groups"][0]["rules"]]
    assert len(asked) > 35
    used = set()
    for expression in asked:
        for name, matchers in re.findall(r"(sallyport_\w+)(?:\{([^}]*)\})?", expression):
            used.add(name)
            assert name in names, f"{name} in {expression}"
            for key, word in re.findall(r'(\w+)="(\w[^"$]*)"', matchers):
                assert word in words.get((name, key), ()), f"{key}={word} in {expression}"
        if not expression.startswith("label_values("):
            prometheus.query(expression.replace("$__rate_interval", "1m").replace("$instance", ".*"))
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used}
    unused = families - shown - {"sallyport_build_info", "sallyport_start_time_seconds"}
    assert not unused, f"no panel and no alert looks at {unused}"


def test_the_dashboard_is_whole():
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "instance"}
    taken = set()
    for panel in panels:
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
