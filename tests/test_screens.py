"""The screens and tables of docs/command-line.md are what the programs show."""

import pytest

from mcast_fast.cli.codes import EXIT_CODES
from tests.lab_screens import LAB_SCREENS
from tests.lab_screens import all_shown as all_shown_in_lab
from tests.screens import BLOCK, PAGE, SCREENS, all_shown, block, option_table


def test_the_page_has_every_screen_and_every_exit_code():
    text = PAGE.read_text(encoding="utf-8")
    assert {match[1] for match in BLOCK.finditer(text)} == set(SCREENS | LAB_SCREENS)
    assert all(f"| {code} | {meaning} |" in text for code, meaning in EXIT_CODES.items())


def test_the_page_has_the_options_of_each_verb():
    assert option_table() in PAGE.read_text(encoding="utf-8")


def test_screens_fit_their_terminals():
    """But for errors and remedies, which are copied whole, and for JSON."""
    for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        screen = (SCREENS | LAB_SCREENS)[match[1]]
        if screen.columns and "error" not in match[1] and "json" not in screen.command:
            lines = match[0].splitlines()[3:-1]
            assert max(map(len, lines)) <= screen.columns or "run: mcast-fast doctor" in match[0], match[0]


@pytest.mark.long
@pytest.mark.needs("pseudo terminals", "signals to processes")
def test_the_page_shows_what_the_programs_show():
    on_page = {match[1]: match[0] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}
    for name, lines in all_shown().items():
        assert block(name, lines).splitlines() == on_page[name].splitlines()


@pytest.mark.lab
@pytest.mark.needs("fast")
def test_the_page_shows_what_the_programs_show_of_a_host():
    on_page = {match[1]: match[0] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}
    for name, lines in all_shown_in_lab().items():
        assert block(name, lines).splitlines() == on_page[name].splitlines()
