"""Fixtures of test_gateway_*.py and test_enroll_*.py; each imports what it uses."""
import pytest

from daemon import Gateway

POLICY = """
policies:
  agents: {allow: [allowed.example, "*.wild.example", big.example, "tcp://ssh.example:22"]}
  nothing: {}
assign:
  - {container: "ci-*", policy: agents}
default: deny
"""


@pytest.fixture
def make_gateway(lab):
    made = []

    def make(policy=POLICY, options=(), start=True, settings=""):
        gateway = Gateway(lab, policy, options, settings)
        made.append(gateway)
        return gateway.start() if start else gateway

    yield make
    for gateway in made:
        gateway.close()
        if gateway.log_path.exists():
            gateway.log()


@pytest.fixture
def gateway(make_gateway):
    return make_gateway()
