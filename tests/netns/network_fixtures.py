"""Fixtures of test_network_*.py; each imports what it uses."""
import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from network import Bridge

NETWORK_POLICY = """
policies:
  agents: {allow: [allowed.example, "*.wild.example", big.example, "tcp://ssh.example:22"]}
  others: {allow: [other.example]}
assign:
  - {subnet: 172.28.0.0/29, policy: agents}
  - {subnet: "2001:db8:28::/125", policy: agents}
  - {subnet: 172.28.0.8/32, policy: others}
  - {container: "*", policy: others}
networks:
  - {name: lab, interface: br-lab%s}
"""


@pytest.fixture(params=["redirect", "tproxy"])
def capture(request):
    return request.param


@pytest.fixture
def bridge(lab):
    made = Bridge(lab)
    yield made.create()
    made.close()
    lab.host.run("nft", "delete", "table", "inet", "sallyport-network", check=False, capture_output=True)


@pytest.fixture
def gateway(bridge, capture, make_gateway):  # noqa: F811
    """With the network `lab` captured, in one way or the other."""
    if capture == "tproxy":
        bridge.netfilter(False)
    return make_gateway(NETWORK_POLICY % f", capture: {capture}")
