"""The evasion table cannot lie: every row has tests, every test is there, and the page says what the table says."""
import evasion
import promises


def test_every_row_has_a_test_that_exists():
    there = evasion.all_tests()
    missing = {(case, test) for _, case, _, tests in evasion.rows() for test in tests or ["none"] if test not in there}
    assert not missing


def test_the_page_is_the_table():
    assert evasion.PAGE.read_text() == evasion.page(), "write it anew: tests/netns/evasion.py --write"


def test_every_promise_names_tests_that_exist():
    """doc/SECURITY.md: what is promised, and the test that guards it."""
    there, units = evasion.all_tests(), promises.unit_tests()
    named = promises.named()
    assert len(named) >= 25
    assert not {(promise, test) for promise, tests in named.items() for test in tests or ["none"] if test not in there | units}
