"""
The manual pages stay true: check_manual.py SALLYPORT SOURCE_ROOT

What the program has has to be in them: every command, every long option that --help names, every key of the policy
file, every reason, every field of an audit event, every default of a limit. What they show has to hold: policies are
checked, rules are tried, and what an example of `policy` or `inspect` prints is what the program prints. mandoc and groff,
where they are installed, find nothing to warn of.
"""
import ipaddress
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, ROOT = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2])
PAGES = {"sallyport.8": ROOT / "doc/sallyport.8", "sallyport.yaml.5": ROOT / "doc/sallyport.yaml.5"}
TEXT = {name: path.read_text() for name, path in PAGES.items()}
COMMANDS, CONFIG = TEXT["sallyport.8"], TEXT["sallyport.yaml.5"]
complaints = []


def complain_unless(good, what):
    if not good:
        complaints.append(what)


def source(path):
    return (ROOT / path).read_text()


def sallyport(*argv, **options):
    return subprocess.run([PROGRAM, *argv], capture_output=True, text=True, timeout=60, **options)


def sections(page):
    """{"RULES": its lines, …}"""
    parts = re.split(r"^\.Sh (.+)$", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def plain(line):
    """A line of an example as it is printed."""
    return line.replace("\\e", "\\").replace("\\&", "")


def literal_blocks(page):
    return [[plain(line) for line in block.splitlines()] for block in
            re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", page, flags=re.M | re.S)]


def has_item(page, words):
    """Is one of `words` the subject of an .It line?"""
    return re.search(rf"^\.It .*(?<![\w-]){words}(?![\w-])", page, flags=re.M) is not None


# --- what the program has ----------------------------------------------------------------------------------------

def check_commands_and_options():
    overview = sallyport("--help").stdout
    commands = re.findall(r"^  (\w+) ", overview, flags=re.M)
    complain_unless(len(commands) >= 3, "no commands in --help")
    options = set(re.findall(r"--([a-z-]+)", overview))
    for command in commands:
        complain_unless(f".Ss {command}\n" in COMMANDS or f".Ss {command} " in COMMANDS,
                        f"sallyport.8: no section of the command {command}")
        text = sallyport(command, "--help").stdout
        options |= set(re.findall(r"--([a-z][a-z-]*)", text))
        usage = text.splitlines()[0]
        for verb in re.findall(r"\b\w+(?:\|\w+)+", usage)[:1]:
            for subcommand in verb.split("|"):
                complain_unless(f".Ss {command} {subcommand}\n" in COMMANDS, f"sallyport.8: no section of {command} {subcommand}")
    for option in sorted(options):
        complain_unless(re.search(rf"Fl -{option}(?![\w-])", COMMANDS), f"sallyport.8: the option --{option} is missing")


def check_options_exist():
    """The other way round: no option that the program does not know."""
    known = set(re.findall(r'\{"([a-z-]+)", (?:no|required)_argument', "".join(
        path.read_text() for path in (ROOT / "cli").glob("*.c")))) | {"help", "version"}
    for option in sorted(set(re.findall(r"Fl -([a-z][a-z-]*)", COMMANDS + CONFIG)) - known):
        complaints.append(f"the pages name the option --{option}, which the program does not have")


def check_keys():
    """Each map of config/read.c is a section of the page with an item for each key."""
    tables = re.findall(r"static void (\w+)\(struct load[^{]*\{[^{}]*?static const struct field fields\[\] = \{(.*?)\};",
                        source("config/read.c"), flags=re.S)
    tables += re.findall(r"^void (read_file)\(struct load.*?fields\[\] = \{(.*?)\};", source("config/read.c"), flags=re.M | re.S)
    tables += re.findall(r"^void (read_rule_map)\(struct load.*?fields\[\] = \{(.*?)\};", source("config/read_rule.c"),
                         flags=re.M | re.S)
    tables += re.findall(r"^static void (read_network)\(struct load.*?fields\[\] = \{(.*?)\};", source("config/read_networks.c"),
                         flags=re.M | re.S)
    keys = {name: re.findall(r'\{"(\w+)", read_', table) for name, table in tables}
    expected = {"read_file": "The file", "read_gateway": "gateway", "read_audit": "gateway.audit", "read_limits": "gateway.limits",
                "read_admin": "gateway.admin", "read_admin_tls": "gateway.admin.tls",
                "read_destinations": "destinations", "read_policy": "policies", "read_policy_limits": "policies.limits", "read_assignment": "assign",
                "read_network": "networks", "read_rule_map": "Maps"}
    complain_unless(set(keys) == set(expected), f"check_manual.py does not know the maps of config/read.c: {sorted(keys)}")
    parts = re.split(r"^\.S[sh] (.+)$", CONFIG, flags=re.M)
    described = dict(zip(parts[1::2], parts[2::2]))
    for name, title in expected.items():
        items = re.findall(r"^\.It Cm (\w+)", described.get(title, ""), flags=re.M)
        complain_unless(sorted(items) == sorted(keys.get(name, [])),
                        f"sallyport.yaml.5: {title} has {items}, the program {keys.get(name)}")


def check_words():
    """Choices of a key, profiles, presets."""
    for table in re.findall(r"^OPTION\((.*?)\)$", source("config/read.c"), flags=re.M):
        key, words = table.split(",")[0], re.findall(r'"(\w+)"', table)
        for word in words:
            complain_unless(re.search(rf"^\.Li {word}\b", CONFIG, flags=re.M) or f"Li {word} " in CONFIG,
                            f"sallyport.yaml.5: {key}: {word} is missing")
    listing = sallyport("policy", "show").stdout
    names = re.findall(r"^(?:profile|preset) +(\S+?)(?:, (\S+))? ", listing, flags=re.M)
    complain_unless(len(names) >= 8, "policy show lists no profiles and presets")
    for name in (name for pair in names for name in pair if name):
        complain_unless(has_item(CONFIG, re.escape(name)), f"sallyport.yaml.5: {name} is missing")


def check_defaults():
    for key, value in re.findall(r"\.(\w+) = (\d+),", source("config/snapshot.c")):
        if key.endswith("_ms"):
            key, ms = key[:-3], int(value)
            unit, size = next((u, s) for u, s in (("h", 3600000), ("m", 60000), ("s", 1000), ("ms", 1)) if ms % s == 0)
            value = f"{ms // size}{unit}"
        complain_unless(f".It Cm {key} Pq Li {value}\n" in CONFIG, f"sallyport.yaml.5: the default of {key} is {value}")


def check_reasons():
    reasons = re.findall(r'\] = "(\w+)"', source("acl/reason.c"))
    complain_unless(len(reasons) > 20, "no reasons in acl/reason.c")
    described = re.findall(r"^\.It Li (\w+)$", sections(COMMANDS)["REASONS"], flags=re.M)
    complain_unless(described == reasons, f"sallyport.8: reasons differ: {sorted(set(described) ^ set(reasons)) or 'their order'}")


def check_audit_fields():
    text = source("gateway/audit_format.c")
    events = sections(COMMANDS)["AUDIT EVENTS"]
    fields = set(re.findall(r"\bVa ([@a-z_.]+)", events))
    for part in re.findall(r'(?:json|put)_\w+\([^"();]*, "([@a-z_]+)"', text):
        complain_unless(any(part in field.split(".") for field in fields), f"sallyport.8: the audit field {part} is missing")
    for action in re.findall(r'"((?:flow|request|dns|packet)-[a-z]+)"', text):
        if action != "packet-allowed":  # never written: what nftables lets through it does not report
            complain_unless(f".It Li {action}\n" in events, f"sallyport.8: the action {action} is missing")
    for action in re.findall(r'"((?:gateway|policy|allow|deny|changes|container)-[a-z]+)"', text):
        complain_unless(re.search(rf"^\.It Li .*\b{action}\b", events, re.M), f"sallyport.8: the action {action} is missing")


def check_metrics():
    """Each family of redirect/monitor/metrics.c, with its type and its labels."""
    text = source("redirect/monitor/metrics.c")
    families = re.findall(r'family\(to, "(\w+)", "(\w+)"', text)
    families += [(name, kind) for kind, name in re.findall(r'\b(gauge|counter)\(to, "(\w+)"', text)]
    families += [(name, "counter") for name in re.findall(r'\bcounters\(to, m, "(\w+)"', text)]
    families += [(name, "histogram") for name in re.findall(r'\bhistogram\(to, m, "(\w+)"', text)]
    complain_unless(len(families) > 20, "no metrics in redirect/monitor/metrics.c")
    described = re.findall(r"^\.It Li (\w+) Pq (\w+)", sections(COMMANDS)["METRICS"], flags=re.M)
    complain_unless(sorted(described) == sorted(families), f"sallyport.8: metrics differ: {set(described) ^ set(families)}")


# --- what the pages show -----------------------------------------------------------------------------------------

def check_policies(folder):
    policies = [block for block in literal_blocks(CONFIG) if block[0].startswith("version:")]
    complain_unless(len(policies) >= 3, "sallyport.yaml.5: where are its policies?")
    for number, block in enumerate(policies):
        file = folder / f"example-{number}.yaml"
        file.write_text("\n".join(block) + "\n")
        done = sallyport("policy", "check", str(file))
        complain_unless(done.returncode == 0 and not done.stderr, f"sallyport.yaml.5: a policy has errors: {done.stderr}")


def check_rules():
    rules = sections(CONFIG)["RULES"]
    accepted = re.findall(r"^\.It Li (.+)$", rules, flags=re.M)
    refused = re.findall(r"^\.It\n\.Li (.+)$", rules, flags=re.M)
    complain_unless(len(accepted) > 10 and len(refused) > 5, "sallyport.yaml.5: where are its rules?")
    for rule in accepted + refused:
        done = sallyport("policy", "test", "--allow", rule, "https://www.example.com")
        complain_unless((done.returncode == 2) == (rule in refused), f"sallyport.yaml.5: rule {rule}: {done.stdout}{done.stderr}")


def check_guard():
    """Every network of acl/guard.c, with its name, in the list of its class; and none that is not there."""
    number = {"4": lambda parts: ".".join(map(str, parts)),
              "6": lambda parts: str(ipaddress.IPv6Address(b"".join(part.to_bytes(2, "big") for part in parts)))}
    code, expected = source("acl/guard.c"), {"NEVER": [], "PRIVATE": [], "EMBEDDED": []}
    for version, parts, kind, name in re.findall(r'\{V(4|6)\(([^)]*)\),\s*(?:ACL_GUARD_(NEVER|PRIVATE),)?\s*"([^"]*)"', code):
        *place, bits = [int(part, 0) for part in parts.split(",")]
        if name != "public":
            expected[kind or "EMBEDDED"].append((f"{number[version](place)}/{bits}", name.lower()))
    lists = re.findall(r"^\.Bl [^\n]*-compact\n(.*?)^\.El$", sections(CONFIG)["ADDRESS GUARD"], flags=re.M | re.S)
    for (kind, ranges), shown in zip(expected.items(), lists):
        found = [(place.replace("\\&", ""), name.lower()) for place, name in re.findall(r"^\.It (\S+/\d+)\n(.*)\.$", shown, flags=re.M)]
        complain_unless(ranges and sorted(found) == sorted(ranges), f"sallyport.yaml.5: ADDRESS GUARD, {kind}: {set(found) ^ set(ranges)}")


def check_record_types():
    """The types of records that are forwarded."""
    table = re.search(r"passed_types\[\] = \{(.*?)\n\};", source("gateway/dns_answer.c"), flags=re.S)[1]
    expected = {name or comment for name, comment in re.findall(r'\{(?:DNS_TYPE_(\w+)|\d+), "[^"]*"(?: /\* (\w+) \*/)?\}', table)}
    shown = re.search(r"^Forwarded are questions(.*?)^All others", sections(CONFIG)["NAME SERVICE"], flags=re.M | re.S)[1]
    found = set(re.findall(r"\b[A-Z]+\b", shown)) - {"IN"}
    complain_unless(len(expected) > 15 and found == expected, f"sallyport.yaml.5: types of records: {found ^ expected}")


def check_diagnostics(folder):
    shown = [line for block in literal_blocks(sections(CONFIG)["DIAGNOSTICS"]) for line in block]
    file = folder / "policy.yaml"
    file.write_text("version: 1\npolicies:\n  web:\n    allow: [example.com:22]\n")
    said = sallyport("policy", "check", file.name, cwd=folder).stderr.splitlines()
    complain_unless(said == shown, f"sallyport.yaml.5: the error is now {said}")


def check_sessions(folder):
    """Lines behind "$ " are run, except those that need a namespace; the lines below are what they print."""
    run = 0
    for block in literal_blocks(COMMANDS):
        session = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "\n".join(block) + "\n", flags=re.M)
        for command, output in session:
            if not re.search(r"sallyport (policy (?!suggest)|inspect)", command):
                continue
            line = re.sub(r"\bsallyport\b", f"'{PROGRAM}'", command, count=1)
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd=folder)
            complain_unless(done.stdout == output, f"sallyport.8: {command}\n  shown:   {output}  printed: {done.stdout}{done.stderr}")
            run += 1
    complain_unless(run >= 5, f"sallyport.8: only {run} examples were found to run")


def check_markup():
    for name, path in PAGES.items():
        if shutil.which("mandoc"):
            done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True)
            complain_unless(not done.stdout, f"mandoc: {done.stdout}")
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-mdoc", "-Tutf8", "-wall", "-z", path], capture_output=True, text=True)
            complain_unless(not done.stderr, f"groff: {name}: {done.stderr}")


def main():
    check_commands_and_options()
    check_options_exist()
    check_keys()
    check_words()
    check_defaults()
    check_reasons()
    check_audit_fields()
    check_metrics()
    check_guard()
    check_record_types()
    with tempfile.TemporaryDirectory(prefix="sallyport-manual-") as folder:
        check_policies(Path(folder))
        check_diagnostics(Path(folder))
        check_sessions(Path(folder))
    check_rules()
    check_markup()
    for complaint in complaints:
        print(complaint)
    sys.exit(1 if complaints else 0)


main()
