"""The check of `make lint` finds the words that it is for."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[1] / ".ci/language.py"
SPEC = importlib.util.spec_from_file_location("language", PATH)
assert SPEC
assert SPEC.loader
language = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(language)


def test_phrases_are_found_across_lines_and_not_in_code() -> None:
    assert language.faults("r foretold, for the first so\nmany images") == [
        "'foretold': write predict",
        "'so many': write N, or the option's name",
    ]
    assert language.faults("`check(least=1)` is the lower bound") == []


def test_openings_are_found_and_questions_are_not() -> None:
    assert language.faults("It is fast. What bounds them: loads.") == ["'What bounds': begin with the subject"]
    assert language.faults("What is a level? Of course it is one bit.") == []


def test_texts_of_each_kind_of_file(tmp_path: Path) -> None:
    contents = {
        "a.md": "One line.\n\n```sh\nso many\n```\n\nso\nmany\n",
        "a.py": '"""Reads\nso many."""\n\nx = 1  # goes\n# on with\n',
        "a.html": "<p>so many</p>{{ so_many }}",
        "a.cpp": "int so_many; // so many\n",
    }
    found = {}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_text(content)
        found[name] = [
            (line, fault.split("'")[1]) for line, text in language.texts(path) for fault in language.faults(text)
        ]
    assert found == {
        "a.md": [(7, "so many")],
        "a.py": [(1, "so many"), (5, "goes on with")],
        "a.html": [(1, "so many")],
        "a.cpp": [(1, "so many")],
    }
