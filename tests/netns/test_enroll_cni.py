"""The CNI plugin, called as container runtimes call plugins, behind Debian's bridge and loopback."""
import json
import os
import subprocess
import uuid

import pytest

from daemon import Container
from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import TIMEOUT, Namespace, wait_until
from origins import address

PLUGINS = next((folder for folder in ("/usr/lib/cni", "/opt/cni/bin") if os.path.exists(f"{folder}/bridge")), None)


class Pod(Container):
    """A namespace that is known by a path, as runtimes make it, and by no process of the pod."""

    def __init__(self, gateway):
        super().__init__(gateway.lab)
        self.gateway, self.id = gateway, uuid.uuid4().hex
        gateway.containers.append(self)
        self.path = gateway.folder / f"netns-{self.id}"
        self.path.touch()
        subprocess.run(["mount", "--bind", f"/proc/{self.pid}/ns/net", str(self.path)], check=True)

    def forget(self):
        """What `ip netns delete` does."""
        if self.path.exists():
            subprocess.run(["umount", "-l", str(self.path)], check=True)
            self.path.unlink()

    def close(self):
        self.forget()
        super().close()


class Runtime:
    """Half a container runtime: a network of two plugins, bridge and ours."""

    def __init__(self, gateway, folder):
        self.gateway, self.name = gateway, "podnet"
        self.node = Namespace()  # so that bridges and addresses of tests do not meet
        self.node.run("ip", "link", "set", "lo", "up")
        self.bin = folder / "bin"
        self.bin.mkdir()
        for plugin in ("bridge", "host-local", "loopback"):
            (self.bin / plugin).symlink_to(f"{PLUGINS}/{plugin}")
        self.folder = folder / "net.d"
        self.folder.mkdir()
        self.list = self.folder / "10-podnet.conflist"
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True,
                  "ipam": {"type": "host-local", "dataDir": str(folder / "ipam"), "routes": [{"dst": "0.0.0.0/0"}],
                           "ranges": [[{"subnet": "198.19.9.0/24"}]]}}
        self.list.write_text(json.dumps({"cniVersion": "1.0.0", "name": self.name, "plugins": [bridge]}))

    def install(self, *options):
        return subprocess.run([str(self.gateway.lab.binary), "cni", "install", "--bin-dir", str(self.bin), "--conf-dir",
                               str(self.folder), "--control", str(self.gateway.control), *options], capture_output=True, text=True)

    def call(self, command, pod=None, plugin="sallyport", interface="eth0", previous=None, annotations=None, config=None, args="", **more):
        whole = json.loads(self.list.read_text())
        entry = next((one for one in whole["plugins"] if one["type"] == plugin), {"type": plugin})
        entry = {"cniVersion": whole["cniVersion"], "name": self.name, **entry, **(config or {}), **more}
        if previous:
            entry["prevResult"] = previous
        if annotations is not None:
            entry["runtimeConfig"] = {"io.kubernetes.cri.pod-annotations": annotations}
        environment = {**self.gateway.lab.environment(), "CNI_COMMAND": command, "CNI_PATH": str(self.bin), "CNI_ARGS": args}
        if pod:
            environment |= {"CNI_CONTAINERID": pod.id, "CNI_NETNS": str(pod.path), "CNI_IFNAME": interface}
        return subprocess.run(list(map(str, self.node.enter([self.bin / plugin]))), input=json.dumps(entry), text=True,
                              capture_output=True, timeout=TIMEOUT, env=environment)

    def add(self, pod, **options):
        """All plugins in turn; the result of the last."""
        made = self.call("ADD", pod, plugin="bridge")
        assert made.returncode == 0, made
        return self.call("ADD", pod, previous=json.loads(made.stdout), **options)


@pytest.fixture
def runtime(gateway):
    if not PLUGINS:
        pytest.skip("not installed: containernetworking-plugins (scripts/install-deps test)")
    folder = gateway.folder / "cni"
    folder.mkdir()
    made = Runtime(gateway, folder)
    done = made.install()
    assert done.returncode == 0 and "is in" in done.stdout, done
    yield made
    made.node.close()


@pytest.fixture
def pod(gateway, runtime):
    return Pod(gateway)


KUBERNETES = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=ci-web-1;K8S_POD_INFRA_CONTAINER_ID=x"


def error_of(done):
    assert done.returncode, done
    told = json.loads(done.stdout)
    assert set(told) == {"cniVersion", "code", "msg", "details"}, told
    return told["code"], told["msg"]


def test_a_pod_is_behind_the_gateway_and_its_events_name_it(gateway, runtime, pod):
    done = runtime.add(pod, annotations={"sallyport.policy": "agents"}, args=KUBERNETES)
    assert done.returncode == 0, done
    result = json.loads(done.stdout)
    assert result["cniVersion"] == "1.0.0" and result["ips"][0]["address"].startswith("198.19.9.")
    assert "eth0" in pod.links()
    assert pod.curl("https://allowed.example/").returncode == 0
    host = address("denied.example")
    assert pod.curl("https://denied.example/", "--resolve", f"denied.example:443:{host}").returncode == 35
    gateway.await_event(lambda events: events.where(event_action="flow-ended"))
    [event] = gateway.audit().allowed("allowed.example")
    assert event["container.id"] == pod.id and event["container.name"] == "ci-web-1"
    assert event["orchestrator.type"] == "kubernetes" and event["orchestrator.namespace"] == "prod"
    assert event["orchestrator.resource.type"] == "pod" and event["orchestrator.resource.name"] == "ci-web-1"
    [one] = gateway.told("ps")
    assert one["capture"] == "attached" and one["pod"] == "ci-web-1" and one["attachment"] == "podnet/eth0"
    assert runtime.call("CHECK", pod, previous=result).returncode == 0
    assert runtime.call("DEL", pod, previous=result).returncode == 0
    assert gateway.told("ps") == [] and pod.ruleset() == "" and list(gateway.state.iterdir()) == []


def test_where_the_policy_comes_from(gateway, runtime):
    for options, policy in (({}, "none"), ({"args": KUBERNETES}, "agents"), ({"config": {"policy": "nothing"}}, "nothing"),
                            ({"config": {"policy": "nothing"}, "annotations": {"sallyport.policy": "agents"}}, "agents")):
        pod = Pod(gateway)
        done = runtime.add(pod, **options)
        assert done.returncode == 0, done
        [one] = [one for one in gateway.told("ps") if one["id"] == pod.id]
        if policy != "none":
            assert one["policy"] == policy
        assert runtime.call("DEL", pod).returncode == 0


def test_what_is_refused_says_why_and_nothing_is_left(gateway, runtime, pod):
    code, message = error_of(runtime.add(pod, annotations={"sallyport.policy": "ghost"}))
    assert code == 100 and 'no policy "ghost"' in message and 'no policy "ghost"' in gateway.log()
    assert pod.ruleset() == "" and gateway.told("ps") == []
    code, message = error_of(runtime.call("ADD", pod))
    assert code == 7 and "prevResult" in message
    code, message = error_of(runtime.call("ADD", pod, previous={}, config={"cniVersion": "0.2.0"}))
    assert code == 1 and "0.2.0" in message
    # Sealed capture cannot be where there is a link.
    code, message = error_of(runtime.call("ADD", pod, previous={"cniVersion": "1.0.0"}, config={"capture": "sealed"}))
    assert code == 100 and "eth0" in message


def test_without_a_gateway(gateway, runtime, pod):
    previous = json.loads(runtime.call("ADD", pod, plugin="bridge").stdout)
    assert runtime.call("STATUS").returncode == 0
    gateway.stop()
    code, message = error_of(runtime.call("ADD", pod, previous=previous))
    assert code == 11 and "no gateway answers" in message
    assert error_of(runtime.call("STATUS"))[0] == 50
    assert error_of(runtime.call("CHECK", pod, previous=previous))[0] == 11
    assert runtime.call("DEL", pod).returncode == 0


def test_del_succeeds_whatever_is_missing(gateway, runtime, pod):
    runtime.add(pod, annotations={"sallyport.policy": "agents"})
    environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": pod.id, "CNI_IFNAME": "eth0", "CNI_PATH": str(runtime.bin)}
    config = json.dumps({"cniVersion": "1.0.0", "name": "podnet", "type": "sallyport", "control": str(gateway.control)})
    for _ in range(2):  # without CNI_NETNS; the second time nothing is there any more
        done = subprocess.run([str(runtime.bin / "sallyport")], env={**gateway.lab.environment(), **environment}, input=config, text=True,
                              capture_output=True)
        assert done.returncode == 0 and done.stdout == "", done
        assert gateway.told("ps") == []
    assert runtime.call("DEL", pod, interface="eth7", config={"policy": 7}).returncode == 0


def test_check_finds_rules_that_are_gone(gateway, runtime, pod):
    result = json.loads(runtime.add(pod, annotations={"sallyport.policy": "agents"}).stdout)
    assert runtime.call("CHECK", pod, previous=result).returncode == 0
    pod.run("nft", "flush", "ruleset")
    code, message = error_of(runtime.call("CHECK", pod, previous=result))
    assert code == 100 and "rule" in message
    gateway.told("withdraw", pod.id)
    code, message = error_of(runtime.call("CHECK", pod, previous=result))
    assert code == 100 and "nothing is enrolled" in message


def test_gc_withdraws_its_own_and_only_its_own(gateway, runtime):
    pods = [Pod(gateway) for _ in range(3)]
    for pod in pods:
        assert runtime.add(pod, annotations={"sallyport.policy": "agents"}).returncode == 0
    other = gateway.container("--policy", "agents")
    foreign = Pod(gateway)
    runtime.name = "othernet"
    assert runtime.call("ADD", foreign, previous={"cniVersion": "1.0.0"}, annotations={"sallyport.policy": "agents"}).returncode == 0
    runtime.name = "podnet"
    valid = [{"containerID": pods[0].id, "ifname": "eth0"}, {"containerID": pods[1].id, "ifname": "eth9"}]
    done = runtime.call("GC", config={"cni.dev/valid-attachments": valid})
    assert done.returncode == 0, done
    assert {one["id"] for one in gateway.told("ps")} == {pods[0].id, other.id, foreign.id}


def test_a_second_interface_of_a_pod(gateway, runtime, pod):
    assert runtime.add(pod, annotations={"sallyport.policy": "agents"}).returncode == 0
    pod.run("ip", "link", "add", "net1", "type", "veth", "peer", "name", "net1-far")
    pod.run("ip", "addr", "add", "198.19.77.1/24", "dev", "net1")
    pod.run("ip", "link", "set", "net1", "up")
    done = runtime.call("ADD", pod, interface="net1", previous={"cniVersion": "1.0.0"}, annotations={"sallyport.policy": "agents"})
    assert done.returncode == 0, done
    assert "198.19.77.1" in pod.ruleset()  # its own address
    assert runtime.call("DEL", pod, interface="net1").returncode == 0
    assert [one["id"] for one in gateway.told("ps")] == [pod.id], "the other interface is captured still"
    assert runtime.call("DEL", pod).returncode == 0
    assert gateway.told("ps") == []


def test_a_namespace_by_its_process(gateway, runtime, pod):
    """Some runtimes name it so: then the process is what is watched."""
    pod.path, real = f"/proc/{pod.pid}/ns/net", pod.path
    for interface in ("eth0", "net1"):  # the second one refreshes the rules
        done = runtime.call("ADD", pod, interface=interface, previous={"cniVersion": "1.0.0"}, annotations={"sallyport.policy": "agents"})
        assert done.returncode == 0, done
    [one] = gateway.told("ps")
    assert one["pid"] == pod.pid and "path" not in one
    assert runtime.call("DEL", pod, interface="net1").returncode == 0 and len(gateway.told("ps")) == 1
    assert runtime.call("DEL", pod).returncode == 0 and gateway.told("ps") == []
    pod.path = real


def test_a_namespace_that_vanishes_is_noticed(gateway, runtime, pod):
    """The runtime crashed and never said DEL."""
    runtime.add(pod, annotations={"sallyport.policy": "agents"})
    pod.forget()
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal", 3)
    assert list(gateway.state.iterdir()) == []
    host = address("denied.example")
    assert not pod.do(*gateway.lab.client, "connect", host, "8081").stdout.startswith("connected"), "what runs there stays closed"


def test_a_namespace_that_the_gateway_does_not_see(gateway, runtime, pod):
    real = pod.path
    done = runtime.call("ADD", pod, plugin="bridge")
    pod.path = "/proc/self/ns/net"  # there, but the gateway's own
    code, message = error_of(runtime.call("ADD", pod, previous=json.loads(done.stdout)))
    pod.path = real
    assert code == 100 and "mount" in message


def test_after_a_restart_the_pod_is_captured_again(gateway, runtime, pod):
    result = json.loads(runtime.add(pod, annotations={"sallyport.policy": "agents"}, args=KUBERNETES).stdout)
    gateway.kill()
    gateway.start()
    assert pod.curl("https://allowed.example/").returncode == 0
    assert gateway.told("ps")[0]["pod_namespace"] == "prod"
    assert runtime.call("CHECK", pod, previous=result).returncode == 0
    pod.forget()
    wait_until(lambda: gateway.told("ps") == [], "the withdrawal", 3)


def test_an_engine_s_hook_for_what_the_plugin_captured(gateway, runtime, pod):
    """Both are set up, as on a node with CRI-O: the sandbox and each container of it come by the hook, too."""
    assert runtime.add(pod, annotations={"sallyport.policy": "agents"}).returncode == 0
    container = subprocess.Popen(list(map(str, pod.enter(["sleep", "infinity"]))))
    wait_until(lambda: os.stat(f"/proc/{container.pid}/ns/net").st_ino == pod.inode(), "its namespace")

    def hook(name, annotations, pid):
        state = json.dumps({"id": name, "pid": pid, "status": "created" if pid else "stopped", "annotations": annotations})
        return subprocess.run([str(gateway.lab.binary), "oci-hook", "--control", str(gateway.control)], input=state, text=True,
                              capture_output=True, env=gateway.lab.environment())
    for name in (pod.id, "container-1"):
        done = hook(name, {"sallyport.policy": "agents"}, container.pid)
        assert done.returncode == 0, done
        done = hook(name + "x" if name != pod.id else name, {"sallyport.policy": "nothing"}, container.pid)
        assert done.returncode == 1 and "another policy" in done.stderr, done
        done = hook(name + "y", {"sallyport.policy": "agents", "sallyport.capture": "sealed"}, container.pid)
        assert done.returncode == 1 and "another capture" in done.stderr, done
    assert {one["id"]: one["state"] for one in gateway.told("ps")} == {pod.id: "served", "container-1": "shared"}
    container.kill()
    container.wait()
    wait_until(lambda: [one["id"] for one in gateway.told("ps")] == [pod.id], "the container's end")
    assert pod.curl("https://allowed.example/").returncode == 0
    assert runtime.call("DEL", pod).returncode == 0 and gateway.told("ps") == []


def test_version(runtime):
    done = runtime.call("VERSION")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def test_a_dev_without_stdin_is_no_reason_to_fail(lab):
    """The configuration comes by descriptor 0, whatever /dev has of it: a container that the plugin refuses does not start."""
    done = subprocess.run(["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev && CNI_COMMAND=VERSION exec "$0" cni', lab.binary],
                          input='{"cniVersion": "1.0.0"}', capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["cniVersion"] == "1.0.0", done


def test_behind_loopback_alone_a_pod_can_be_sealed(gateway, runtime, pod):
    done = runtime.call("ADD", pod, plugin="loopback", interface="lo")
    assert done.returncode == 0, done
    done = runtime.call("ADD", pod, previous=json.loads(done.stdout), config={"capture": "sealed", "policy": "agents"})
    assert done.returncode == 0, done
    assert pod.curl("https://allowed.example/").returncode == 0
    assert gateway.told("ps")[0]["capture"] == "sealed"


# --- cni install ----------------------------------------------------------------------------------------------------

def test_install_is_idempotent_keeps_the_rest_and_can_be_taken_back(runtime):
    plugin = runtime.bin / "sallyport"
    assert plugin.is_symlink() and os.access(plugin, os.X_OK)
    runtime.list.chmod(0o640)
    first = runtime.list.read_text()
    whole = json.loads(first)
    assert [one["type"] for one in whole["plugins"]] == ["bridge", "sallyport"]
    assert whole["plugins"][1]["capabilities"] == {"io.kubernetes.cri.pod-annotations": True}
    assert runtime.install().returncode == 0 and runtime.list.read_text() == first
    done = runtime.install("--dry-run", "--policy", "agents")
    assert json.loads(done.stdout)["plugins"][1]["policy"] == "agents" and runtime.list.read_text() == first
    assert runtime.install("--policy", "agents", "--no-annotations", "--copy").returncode == 0
    changed = json.loads(runtime.list.read_text())
    assert changed["plugins"][1] == {"type": "sallyport", "policy": "agents", "control": str(runtime.gateway.control)}
    assert changed["plugins"][0] == whole["plugins"][0] and runtime.list.stat().st_mode & 0o777 == 0o640
    assert plugin.is_file() and not plugin.is_symlink() and (runtime.bin / "sallyport.d").is_dir()
    assert runtime.install("--uninstall").returncode == 0
    assert [one["type"] for one in json.loads(runtime.list.read_text())["plugins"]] == ["bridge"] and not plugin.exists()
    assert not (runtime.bin / "sallyport.d").exists()
    assert runtime.install("--uninstall").returncode == 0
    assert sorted(os.listdir(runtime.folder)) == ["10-podnet.conflist"]


def test_a_copy_needs_nothing_of_the_host(gateway, runtime, pod):
    """As a container puts it into the host's folder: the host's own libraries are hidden here."""
    if b"libasan" in subprocess.run(["ldd", str(gateway.lab.binary)], capture_output=True).stdout:
        pytest.skip("a sanitized program wants its library first")
    assert runtime.install("--copy", "--policy", "agents").returncode == 0
    needed = subprocess.run(["ldd", str(gateway.lab.binary)], capture_output=True, text=True).stdout
    hidden = [word for word in needed.split() if word.startswith("/") and "libc.so" not in word and "/ld-" not in word]
    assert len(hidden) > 5
    story = "".join(f"mount --bind /dev/null {path} && " for path in hidden) + f"exec {runtime.bin}/sallyport"
    made = runtime.call("ADD", pod, plugin="bridge")
    config = json.loads(runtime.list.read_text())["plugins"][-1] | {"cniVersion": "1.0.0", "name": "podnet",
                                                                   "prevResult": json.loads(made.stdout)}
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": "ADD", "CNI_CONTAINERID": pod.id, "CNI_IFNAME": "eth0",
                   "CNI_NETNS": str(pod.path), "CNI_PATH": str(runtime.bin)}
    done = subprocess.run(["unshare", "--mount", "sh", "-c", story], input=json.dumps(config), text=True, capture_output=True,
                          env=environment)
    assert done.returncode == 0 and json.loads(done.stdout)["ips"], done
    assert [one["id"] for one in gateway.told("ps")] == [pod.id]


def test_a_watched_list_keeps_its_plugin(runtime):
    """The network's own plugin is upgraded, and writes its list anew; another network comes before it."""
    installed = json.loads(runtime.list.read_text())
    watching = subprocess.Popen([str(runtime.gateway.lab.binary), "cni", "install", "--watch", "--bin-dir", str(runtime.bin),
                                 "--conf-dir", str(runtime.folder), "--control", str(runtime.gateway.control)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "is in" in watching.stdout.readline()
        for _ in range(3):
            new = runtime.folder / "new"
            new.write_text(json.dumps({**installed, "plugins": installed["plugins"][:1]}))
            new.rename(runtime.list)
            assert "is in" in watching.stdout.readline()
            assert json.loads(runtime.list.read_text()) == installed
        (runtime.folder / "05-first.conflist").write_text(runtime.list.read_text().replace("podnet", "first").replace(
            '"type": "sallyport"', '"type": "tuning"'))
        assert "05-first" in watching.stdout.readline()
        watching.terminate()
        assert watching.wait(10) == 0
    finally:
        watching.kill()
    done = runtime.install("--watch", "--dry-run")
    assert done.returncode == 2 and "--watch" in done.stderr


@pytest.mark.parametrize("text, hint", [
    ("{", ":1:"), ("[]", "object"), ('{"type": "bridge"}', "only a .conflist"), ('{"plugins": []}', "is empty")])
def test_install_into_what_is_no_list(runtime, text, hint):
    runtime.list.write_text(text)
    done = runtime.install()
    assert done.returncode == 2 and hint in done.stderr and runtime.list.read_text() == text, done


def test_install_without_a_network_or_with_wrong_options(runtime):
    runtime.list.unlink()
    done = runtime.install()
    assert done.returncode == 2 and "no .conflist" in done.stderr
    assert runtime.install("--frob").returncode == 2
    assert runtime.install("--policy").returncode == 2
    assert runtime.install("extra").returncode == 2
