"""Plain English: README, docs and docstrings have short sentences, the field's words and no filler.

A rule is a row of RULES: what must not be there, and what to write. Code, tables and outputs are left out; a word that is
right in its place, such as the name of a key, is set in `code`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".pyi"))
LONGEST = 40  # words of a sentence
MOST_PASSIVES = 4  # in a sentence

RULES: dict[str, str] = {
    # fillers
    r"simply|easily|obviously|basically|of course|clearly|needless to say|seamless(ly)?|effortless(ly)?": "leave it out",
    r"(?<!only )\bjust(?! (now|before|after|behind|above|below|as)\b)": "leave it out, or: only",
    r"very|quite|really|extremely": "leave it out, or give the figure",
    r"please note|it should be noted|keep in mind": "say it",
    # longer than needed
    r"in order to": "to",
    r"utili[sz]es?|leverages?": "use",
    r"due to the fact that|owing to the fact that": "because",
    r"in the event that": "if",
    r"at this point in time": "now",
    r"is able to|are able to": "can",
    r"has the ability to": "can",
    r"and/or": "or",
    r"\w+\(s\)": "the plural",
    r"resp\.|e\.g\.|i\.e\.|etc\.": "words: for example, that is, and so on",
    # what is not English
    r"allows? to|enables? to|permits? to": "allows X to, or: can",
    r"informations|evidences|feedbacks|softwares|hardwares": "the singular",
    r"how (it|this|that|they) looks? like": "what it looks like",
    r"depends? (of|from)|consists? in|differs? to": "depends on, consists of, differs from",
    r"since \d+ (years|days|hours|seconds)": "for",
    r"in the place of": "in place of",
    r"so (many|often|much)(?! (that|as|more|less|later|earlier|slower|faster)\b)": "the number, how often",
    r"owed|asked for by|bring about|stands? (in|there)|give way to a": "the plain verb",
    r"(packets|datagrams|bytes|calls|reports|frames|samples) an? (second|minute|packet|call)": "per second",
    r"for ever": "forever",
    r"(it|which|that|this|page|counter|flag|name|field) tells?": "shows, reports, says",
    # metaphors
    r"under your feet|(?<!back)door|wall of|silver bullet|magic|blazing|lightning|rock.solid|battle.tested": "what happens",
    r"house|storey|wing|room|heart of|at the end of the day|out of the box|under the hood": "package, module, inside",
    r"crystal clear|cutting.edge|state of the art|game.chang\w+|powerful|rich set|world.class": "leave it out",
    # spelling: British throughout
    r"colors?|behaviors?|favorites?|centers?|analyz(e|ed|es|ing)|neighbors?|catalogs?|canceled|canceling": "British spelling",
    # marks
    r"\w+!(?=\s|$)": "a full stop",
}
# One expression for all rules, with the position of the rule as the name of its group.
ANY = re.compile(
    r"(?<![\w-])(?:" + "|".join(f"(?P<r{at}>{rule})" for at, rule in enumerate(RULES)) + r")(?![\w-])", re.IGNORECASE
)
ADVICE = {f"r{at}": advice for at, advice in enumerate(RULES.values())}
TWICE = re.compile(r"\b(?!(?:that|had)\b)([A-Za-z]+) (?=[a-z])(?i:\1)\b")
PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being) (?:\w+ly |not |also |only )?\w+(?:ed|en|wn|pt|nt|ut|ld|de)\b"
)


class Text(NamedTuple):
    """A paragraph."""

    where: str
    text: str

    def faults(self) -> list[str]:
        """What breaks a rule, with what to write."""
        found = [
            f"{match[0]!r}: {next(ADVICE[name] for name, value in match.groupdict().items() if value)}"
            for match in ANY.finditer(self.text)
        ]
        found += [f"{match[0]!r} twice" for match in TWICE.finditer(self.text)]
        for sentence in re.split(r"(?<=[.?;])\s+", self.text):
            words = re.findall(r"[\w'`%./-]*\w[\w'`%./-]*", sentence)
            if len(words) > LONGEST:
                found.append(f"{len(words)} words, at most {LONGEST}: {sentence[:90]}…")
            if len(PASSIVE.findall(sentence)) > MOST_PASSIVES:
                found.append(f"more than {MOST_PASSIVES} passives: {sentence[:90]}…")
        return [f"{self.where}: {fault}" for fault in found]


FENCE = re.compile(r"^( *)(```+|:::+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def blank(match: re.Match[str]) -> str:
    """As many lines, without anything."""
    return "\n" * match[0].count("\n")


def plain(text: str) -> str:
    """Without code and targets of links."""
    text = re.sub(r"`{1,2}[^`]+`{1,2}", "`x`", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"<[^>]+>|https?://\S+", "", text)


def paragraphs(where: str, text: str) -> Iterator[Text]:
    """Those of a page: headings, items of lists and blocks of prose, each with its line. Tables are left out."""
    text = re.sub(r"<!--.*?-->", blank, FENCE.sub(blank, text), flags=re.DOTALL)
    text = re.sub(r"^( *\||    ).*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(#.*)\n", r"\1\n\n", text, flags=re.MULTILINE)
    for match in re.finditer(r"(?:^(?!\s*$).*\n?)+", text, re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        for part in re.split(r"^\s*(?:[-*]|\d+\.|#+) ", match[0], flags=re.MULTILINE):
            if part.strip():
                yield Text(f"{where}:{line}", plain(" ".join(part.split())))
            line += part.count("\n")


def docstrings(where: str, source: str) -> Iterator[Text]:
    """Those of a module: each paragraph, and each argument, for itself; indented examples are left out."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            line = getattr(node, "lineno", 1)
            parts = re.split(
                r"\n\s*\n|\n(?=    \*{0,2}\w[\w, ]*: )|^(?:Args|Returns|Raises|Yields|Attributes):$",
                text,
                flags=re.MULTILINE,
            )
            for part in parts:
                if "\b" not in part and (not part.startswith("        ") or ": " in part.partition("\n")[0]):
                    yield Text(f"{where}:{line}", plain(" ".join(part.split())))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_is_plain_english(path):
    name = path.relative_to(ROOT).as_posix()
    assert [fault for one in paragraphs(name, path.read_text("utf-8")) for fault in one.faults()] == []


@pytest.mark.long
def test_docstrings_are_plain_english():
    found = []
    for path in MODULES:
        for one in docstrings(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")):
            found += one.faults()
    assert found == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("You can simply join.", "'simply': leave it out"),
        ("It takes 300 packets a second.", "'packets a second': per second"),
        ("# Not at all\n\n- The flag tells which one.", "'flag tells': shows, reports, says"),
        ("Read the the page.", "'the the' twice"),
        (f"This sentence {'and that word ' * 15}ends.", "48 words, at most 40: This sentence"),
        ("It is opened when it was given and is held until it is closed or is taken.", "more than 4 passives"),
        ("The color of a link!", "'color': British spelling"),
        ("The color of a link!", "'link!': a full stop"),
    ],
)
def test_a_rule_finds_what_it_forbids(text, fault):
    found = [one for part in paragraphs("page.md", text) for one in part.faults()]
    assert any(fault in one for one in found), found
    found = [one for part in docstrings("module.py", f'"""{text}"""') for one in part.faults()]
    assert any(fault in one for one in found), found


def test_code_and_outputs_are_not_prose():
    text = "```sh\nsimply run it!\n```\n\n| very | quite |\n|---|---|\n\nThe option `--just-now` of [it](very.md).\n"
    assert [fault for one in paragraphs("page.md", text) for fault in one.faults()] == []
