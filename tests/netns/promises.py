"""Reads the table of promises in doc/SECURITY.md: a promise a row, the tests that guard it in the last column."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def named():
    """promise → tests"""
    table = re.search(r"^\| promise \|.*?\n\n", (ROOT / "doc/SECURITY.md").read_text(), re.M | re.S)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {promise: re.findall(r"`([^`]+)`", tests) for promise, tests in cells}


def unit_tests():
    """Names that meson knows: `unit:test_hello`, `fuzz:hello`."""
    units = {f"unit:{file.stem}" for file in (ROOT / "tests/unit").glob("test_*.c")}
    return units | {f"fuzz:{file.stem.removeprefix('fuzz_')}" for file in (ROOT / "tests/fuzz").glob("fuzz_*.c")}
