"""OpenMetrics text as tests read it, and the admin endpoint of a gateway."""
import re

SAMPLE = re.compile(r'(\w+)(?:\{(.*)\})? (\S+)')
LABEL = re.compile(r'(\w+)="([^"]*)"')


def parse(text):
    """{(name, frozenset of labels): value}; the text has to be whole."""
    assert text.endswith("# EOF\n"), text[-200:]
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = SAMPLE.fullmatch(line).groups()
        key = (name, frozenset(LABEL.findall(labels or "")))
        assert key not in samples, f"twice: {line}"
        samples[key] = float(value)
    return samples


def value(samples, name, **labels):
    """The sum of the samples of this name that have these labels."""
    return sum(number for (found, having), number in samples.items()
               if found == f"sallyport_{name}" and set(labels.items()) <= having)


def by(samples, name, label):
    """{value of the label: sum}, without those that are 0."""
    sums = {}
    for (found, having), number in samples.items():
        if found == f"sallyport_{name}" and number:
            key = dict(having)[label]
            sums[key] = sums.get(key, 0) + number
    return sums


class Endpoint:
    """Asked from the gateway's own namespace."""

    def __init__(self, gateway, address="127.0.0.1:9464", scheme="http", options=()):
        self.host, self.address, self.scheme, self.options = gateway.lab.host, address, scheme, options

    def curl(self, path, *options):
        return self.host.run("curl", "-sS", "--noproxy", "*", "--max-time", "10", *self.options, *options,
                             f"{self.scheme}://{self.address}{path}", check=False, capture_output=True)

    def status(self, path, *options):
        done = self.curl(path, "-o", "/dev/null", "-w", "%{http_code}", *options)
        return int(done.stdout)

    def metrics(self):
        done = self.curl("/metrics", "--fail")
        assert done.returncode == 0, done.stderr
        return parse(done.stdout)
