"""
Does a flow cost more when there are many containers, or many rules?

    scale.py [--build DIR] [--rounds N] [--seconds S] [--containers N] [--names N] [--results DIR]

Three gateways take turns with the same work (new TLS flows, and refused ones; load.py says what that is): one with a single
container and ten names in its policy, one with as many containers as are asked for (1 000), one with as many names (1 000 000)
in a file. What is counted is the CPU of the gateway's process tree for a flow; a ratio is the median of the ratios of each round,
to the plain one's.
"""
import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import load  # noqa: E402
import load_lab  # noqa: E402
import subjects  # noqa: E402
from load_lab import LoadLab  # noqa: E402
from series import machine, quantile  # noqa: E402

WORKS = ("flows", "refused")


class Plain(subjects.Sallyport):
    name = "1 container, 10 names"

    def __init__(self, lab, arguments):
        self.arguments = arguments
        super().__init__(lab)


class Containers(Plain):
    def __init__(self, lab, arguments):
        self.name = f"{arguments.containers} containers, 10 names"
        super().__init__(lab, arguments)
        for _ in range(arguments.containers - 1):
            self.gateway.container()


class Names(Plain):
    def __init__(self, lab, arguments):
        self.name = f"1 container, {arguments.names} names"
        super().__init__(lab, arguments)

    def more_policy(self, folder):
        folder.chmod(0o755)
        names = folder / "names.txt"
        with open(names, "w") as file:
            for i in range(self.arguments.names):
                file.write(f"host-{i * 2654435761 % 4294967296:x}.list.example\n")
        return f"    allow_files: [{names}]\n"


def measure(lab, arguments):
    made = [kind(lab, arguments) for kind in (Plain, Containers, Names)]
    try:
        lines = ["## A flow beside many containers and many names", "", "| | µs a flow | of the plain one | µs a refused flow | of the plain one |",
                 "|---|--:|--:|--:|--:|"]
        table = {work: {one.name: load.Figures() for one in made} for work in WORKS}
        for work in WORKS:
            for turn in range(arguments.rounds + 1):  # the first is a warm-up
                for one in made[turn % len(made):] + made[:turn % len(made)]:
                    load.measure(lab, one, work, int(arguments.seconds * 1000), table[work][one.name])
                    if turn == 0:
                        table[work][one.name].rounds.clear()
        for one in made:
            cells = []
            for work in WORKS:
                ours, plain = table[work][one.name], table[work][made[0].name]
                if not (ours.usable() and plain.usable()):
                    cells += ["failed", ", ".join(ours.failures) or "-"]
                    continue
                ratios = sorted(a / b for a, b in zip(ours.values("cpu"), plain.values("cpu")))
                cells += [f"{ours.median('cpu') * 1e6:.1f}",
                          f"{statistics.median(ratios):.2f} ({quantile(ratios, 0.25):.2f}–{quantile(ratios, 0.75):.2f})"]
            lines.append(f"| {one.name} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n", all(figures.usable() for row in table.values() for figures in row.values())
    finally:
        for one in made:
            one.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--build", type=Path, default=HERE.parent / "build")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--names", type=int, default=1000000)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    folder, lab = tempfile.mkdtemp(prefix="sallyport-bench-"), None
    try:
        lab = LoadLab(folder, arguments.build, *load_lab.cpus_of_machine())
        text, good = measure(lab, arguments)
    finally:
        if lab:
            lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    facts = machine()
    text += f"\n{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}; {arguments.rounds} rounds of {arguments.seconds} s.\n"
    print(text)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "scale.md").write_text(text)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
