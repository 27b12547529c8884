"""Checks that pages, notebooks, docstrings, messages and comments avoid words that make them hard to read.

    python .ci/language.py

prints each banned word with its place and a better word, and exits with 1 if there is one. `make lint` runs it.
"""

import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILES = (
    *("*.md", "docs/**/*.md", "*/README.md", "notebooks/*.ipynb"),
    *("src/**/*.py", "src/**/*.html", "examples/*.py", "benchmarks/*.py", "experiments/*.py"),
    "csrc/**/*.[ch]pp",
)

BANNED = {
    r"foreto?ld|foretell(?:s|ing)?": "predict",
    r"so many": "N, or the option's name",
    r"(?:go|goes|going|gone|went) on (?:with|where|from|bit by bit)": "resume, continue",
    r"heeds?": "depend on, consider",
    r"hears? of": "depend on",
    r"(?:lie|lies|lying) along what": "point in the directions that",
    r"in front of each": "before each",
    r"as far as sums": "say it with the field's term",
    r"(?:least|most)=": "min=, max=",
    r"an? (?:filter|layer|image|channel|class|epoch|step|vector|row|word|cycle|second) each": "one per ...",
    r"by itself alone": "alone",
    r"thereof|whereof|wherein|therewith": "two sentences",
    r"takes? turns|(?:all|both|search|run) in turn": "interleaved",
    r"var(?:y|ies) alike": "vary equally",
    r"held against": "compared with",
    r"(?:mend|mends|mended|mending)": "fix, recover",
    r"looked at": "measured",
    r"(?:be|cannot be) told": "be measured, be distinguished",
    r"left aside": "ignored",
    r"nothing but": "only",
    r"(?:point|line|row|colour|scale|histogram)s? an? (?:filter|layer|image|class|epoch|result)": "one ... per ...",
    r"reference serves": "is used",
}
"""Banned phrases, as regular expressions without regard to case, and what to write instead."""

OPENINGS = {
    r"What (?:is|are|was|were|can|cannot|bounds|fails|stays|comes|remains)\b(?![^.?!:]*\?)": "begin with the subject",
    r"Of (?:an?|the) [^.,]{1,60},": "begin with the subject",
}
"""Openings of a sentence that is no question."""


def faults(text: str) -> list[str]:
    """The banned phrases and openings in a running text, each with a better word."""
    text = re.sub(r"\s+", " ", re.sub(r"`[^`\n]*`", "x", text)).strip()
    found = []
    for pattern, instead in BANNED.items():
        for match in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE):
            found.append(f"{match[0]!r}: write {instead}")
    for pattern, instead in OPENINGS.items():
        for match in re.finditer(rf"(?:^|[.:!?] |- )({pattern})", text):
            found.append(f"{match[1]!r}: {instead}")
    return found


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The running texts of a file, each with its line: Markdown without code, cells, strings, comments."""
    if path.suffix == ".md":
        page = re.sub(r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), path.read_text(), flags=re.M | re.S)
        for match in re.finditer(r"(?:^.+\n?)+", page, re.MULTILINE):
            yield page[: match.start()].count("\n") + 1, match[0]
    elif path.suffix == ".ipynb":
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            yield i, "".join(cell["source"])
    elif path.suffix == ".py":
        with tokenize.open(path) as file:
            tokens = list(tokenize.generate_tokens(file.readline))
        comment, last = "", -1
        for token in tokens:
            line = token.start[0]
            if token.type == tokenize.COMMENT:
                if comment and line != last + 1:
                    yield last, comment
                    comment = ""
                comment, last = f"{comment} {token.string.lstrip('# ')}", line
            elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)):
                yield line, token.string.strip("\"'")
        if comment:
            yield last, comment
    elif path.suffix == ".html":
        for i, line in enumerate(path.read_text().splitlines()):
            yield i + 1, re.sub(r"<[^>]*>|{[{%].*?[}%]}", " ", line)
    else:  # C++: comments
        for i, line in enumerate(path.read_text().splitlines()):
            if match := re.search(r"//(.*)", line):
                yield i + 1, match[1]


def main() -> int:
    """Checks every file; returns the exit status."""
    found = 0
    for path in sorted({path for pattern in FILES for path in ROOT.glob(pattern)}):
        if "_build" in path.parts or any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        for line, text in texts(path):
            for fault in faults(text):
                print(f"{path.relative_to(ROOT)}:{line}: {fault}")
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
