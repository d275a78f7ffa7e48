"""
Captured networks in the lab: containers behind the host, which would route their packets to the internet if nobody minded.

    container ══ bridge (or a link of its own) ══ "host" ═══ uplink ═══ "internet", which knows the way back
"""
from daemon import Container
from lab import Namespace

SUBNET = {4: "172.28.0.0/24", 6: "2001:db8:28::/64"}
HOST = {4: "172.28.0.1", 6: "2001:db8:28::1"}


class Bridge:
    """A bridge in the host's namespace, as an engine makes them: forwarding is on, containers have addresses and a default route."""

    made = 0

    def __init__(self, lab, name="br-lab", subnet=SUBNET, host=HOST):
        self.lab, self.name, self.subnet, self.host = lab, name, subnet, host
        self.containers = []
        self.ports = []  # removed with the bridge: a closing connection may keep a container's namespace for a while
        self.up = False

    def create(self):
        host, internet = self.lab.host, self.lab.internet
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        host.run("ip", "link", "add", self.name, "type", "bridge")
        host.run("ip", "link", "set", self.name, "up")
        self.up = True
        for family, back in ((4, "198.19.0.2"), (6, "2001:db8:5a1f::2")):
            nodad = ["nodad"] if family == 6 else []
            length = self.subnet[family].split("/")[1]
            host.run("ip", "addr", "add", f"{self.host[family]}/{length}", "dev", self.name, *nodad)
            internet.run("ip", f"-{family}", "route", "replace", self.subnet[family], "via", back)
        return self

    def container(self):
        """One more, with the next free address."""
        made = Container(self.lab)
        number = len(self.containers) + 2
        self.containers.append(made)
        Bridge.made += 1
        port = f"port{Bridge.made}"
        self.ports.append(port)
        made.address = {family: host[:-1] + (f"{number:x}" if family == 6 else str(number)) for family, host in self.host.items()}
        host = self.lab.host
        host.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", made.pid)
        host.run("ip", "link", "set", port, "master", self.name, "up")
        for link in ("lo", "eth0"):
            made.run("ip", "link", "set", link, "up")
        for family in (4, 6):
            nodad = ["nodad"] if family == 6 else []
            length = self.subnet[family].split("/")[1]
            made.run("ip", "addr", "add", f"{made.address[family]}/{length}", "dev", "eth0", *nodad)
            made.run("ip", f"-{family}", "route", "add", "default", "via", self.host[family])
        return made

    def netfilter(self, on):
        """Whether br_netfilter hands the bridge's packets to the rules of the host (TPROXY does not work then)."""
        self.lab.host.run("sh", "-c", f"echo {int(on)} | tee /proc/sys/net/bridge/bridge-nf-call-ip*tables", stdout=-3, stderr=-3,
                          check=False)

    def remove(self):
        """As an engine does at the end; it may be created again."""
        for link in [*self.ports, *([self.name] if self.up else [])]:
            self.lab.host.run("ip", "link", "del", link, check=False, stderr=-3)
        self.ports, self.up = [], False

    def close(self):
        self.netfilter(True)
        for container in self.containers:
            container.close()
        self.remove()
        for family in (4, 6):
            self.lab.internet.run("ip", f"-{family}", "route", "del", self.subnet[family], check=False)


class Routed:
    """A network behind a router: the host's interface leads to the router only."""

    interface, subnet = "lab-net", {4: "172.30.5.0/24", 6: "2001:db8:305::/64"}
    link = {4: ("172.30.0.1/30", "172.30.0.2/30"), 6: ("2001:db8:300::1/64", "2001:db8:300::2/64")}
    edge = {4: "172.30.5.1", 6: "2001:db8:305::1"}

    def __init__(self, lab):
        self.lab, self.router, self.box = lab, Namespace(), Container(lab)
        host, router, box = lab.host, self.router, self.box
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        box.address = {4: "172.30.5.2", 6: "2001:db8:305::2"}
        host.run("ip", "link", "add", self.interface, "type", "veth", "peer", "name", "north", "netns", router.pid)
        router.run("ip", "link", "add", "south", "type", "veth", "peer", "name", "eth0", "netns", box.pid)
        for namespace in (host, router):
            namespace.run("sh", "-c", forward)
        for namespace, links in ((host, [self.interface]), (router, ["north", "south"]), (box, ["lo", "eth0"])):
            for link in links:
                namespace.run("ip", "link", "set", link, "up")
        for family in (4, 6):
            nodad = ["nodad"] if family == 6 else []
            ours, theirs = self.link[family]
            length = self.subnet[family].split("/")[1]
            host.run("ip", "addr", "add", ours, "dev", self.interface, *nodad)
            router.run("ip", "addr", "add", theirs, "dev", "north", *nodad)
            router.run("ip", "addr", "add", f"{self.edge[family]}/{length}", "dev", "south", *nodad)
            box.run("ip", "addr", "add", f"{box.address[family]}/{length}", "dev", "eth0", *nodad)
            host.run("ip", f"-{family}", "route", "add", self.subnet[family], "via", theirs.split("/")[0])
            router.run("ip", f"-{family}", "route", "add", "default", "via", ours.split("/")[0])
            box.run("ip", f"-{family}", "route", "add", "default", "via", self.edge[family])

    def close(self):
        self.lab.host.run("ip", "link", "del", self.interface)
        self.box.close()
        self.router.close()
