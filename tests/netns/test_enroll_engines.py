"""Real engines: podman through the OCI hook, Docker through the runtime wrapper. Containers are made of this machine's /usr."""
import subprocess

import pytest

from engines import docker, podman  # noqa: F401
from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import wait_until
from origins import address


STORY = "curl -sS --max-time 10 https://allowed.example/; curl -sS --max-time 10 https://denied.example/; echo $?"


# --- podman --------------------------------------------------------------------------------------------------------

def test_podman_a_container_is_behind_the_gateway_from_its_first_moment(gateway, podman):
    uplink = gateway.lab.capture()
    done = podman.run(["sh", "-c", STORY], "--annotation", "sallyport.name=ci-7")
    assert done.stdout.startswith("allowed.example at ") and done.stdout.rstrip().endswith("6"), done  # could not resolve
    assert not uplink.carrying("denied")
    gateway.await_event(lambda events: events.where(event_action="flow-ended"))
    [event] = gateway.audit().allowed("allowed.example")
    assert event["container.name"] == "ci-7" and len(event["container.id"]) == 64
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")


def test_podman_without_the_annotation_nothing_is_touched(gateway, podman):
    assert podman.run(["ls", "/sys/class/net"], policy=None).stdout.split() == ["lo"]
    assert "eth0" in podman.run(["ls", "/sys/class/net"]).stdout.split()


@pytest.mark.parametrize("policy, hint", [("ghost", 'no policy "ghost"')])
def test_podman_a_container_that_is_refused_does_not_start(gateway, podman, policy, hint):
    done = podman.run(["echo", "it ran"], policy=policy)
    assert done.returncode == 126 and hint in done.stderr and "it ran" not in done.stdout, done
    assert hint in gateway.log()
    assert gateway.told("ps") == []


def test_podman_without_a_gateway_no_container_starts(gateway, podman):
    gateway.kill()
    done = podman.run(["echo", "it ran"])
    assert done.returncode and "no gateway answers" in done.stderr and "it ran" not in done.stdout, done


def test_podman_with_the_hosts_network_no_container_starts(gateway, podman):
    """In a network namespace of the test's own, to be sure that no real one is in danger."""
    line = podman.line(["echo", "it ran"], network="host")
    done = gateway.lab.host.run(*line, capture_output=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"})
    assert done.returncode and "network namespace of the host" in done.stderr and "it ran" not in done.stdout, done
    assert "sallyport" not in gateway.lab.host.output("nft", "list", "ruleset")


def test_podman_a_bad_annotation_is_told(gateway, podman):
    done = podman.run(["echo", "it ran"], "--annotation", "sallyport.capture=both")
    assert done.returncode and "write sealed or attached" in done.stderr, done


def test_podman_root_with_net_admin_inside_cannot_open_it(gateway, podman):
    uplink = gateway.lab.capture()
    story = """nft flush ruleset; ip route replace default dev eth0; ip link add more type veth peer name less
        curl -sS --max-time 2 https://198.18.2.1/; ping -c 1 -W 1 198.18.2.1; echo done"""
    done = podman.run(["sh", "-c", story], "--cap-add", "NET_ADMIN,NET_RAW")
    assert done.stdout.endswith("done\n"), done
    assert uplink.packets() == []


def test_podman_kill_9_of_everything_and_the_container_goes_on(gateway, podman):
    story = "while :; do curl -sS --max-time 10 https://allowed.example/ 2>/dev/null || echo no; sleep 0.05; done"
    running = podman.start(["sh", "-c", story])
    try:
        assert running.stdout.readline().startswith("allowed.example at")
        gateway.kill()
        wait_until(lambda: running.stdout.readline() == "no\n", "the closed gateway")
        gateway.start()
        wait_until(lambda: running.stdout.readline().startswith("allowed.example at"), "service again")
    finally:
        running.kill()
        subprocess.run([*map(str, podman.base), "rm", "-af", "-t", "0"], capture_output=True,
                       env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(podman.folder)})
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")


# --- Docker --------------------------------------------------------------------------------------------------------

def test_docker_by_the_runtime_wrapper(gateway, docker):
    uplink = gateway.lab.capture()
    done = docker.run(["sh", "-c", STORY], "-e", "SALLYPORT_POLICY=agents", "--hostname", "ci-9")
    assert done.stdout.startswith(f"allowed.example at {address('allowed.example')[:4]}"), done
    assert not uplink.carrying("denied")
    gateway.await_event(lambda events: events.where(event_action="flow-ended"))
    [event] = gateway.audit().allowed("allowed.example")
    assert event["container.name"] == "ci-9" and event["rule.ruleset"] == "agents"
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal")
    # No policy named: by the assign rules, which go by the name.
    done = docker.run(["sh", "-c", STORY], "--hostname", "ci-10")
    assert done.stdout.startswith("allowed.example at"), done
    assert "allowed.example at" not in docker.run(["sh", "-c", STORY], "--hostname", "web").stdout
    # Refused: does not start.
    done = docker.run(["echo", "it ran"], "-e", "SALLYPORT_POLICY=ghost")
    assert done.returncode and "it ran" not in done.stdout and 'no policy "ghost"' in done.stderr + gateway.log(), done
    # With another runtime nothing changes.
    assert docker.run(["ls", "/sys/class/net"], runtime="runc").stdout.split() == ["lo"]
