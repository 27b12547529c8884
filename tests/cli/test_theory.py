import json

import numpy as np
import pytest

from hypersign import theory
from hypersign.cli import main


def test_angle_prints_the_closed_form(capsys):
    main(["theory", "angle", "--dimension", "27", "1152", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["dimension"] for row in rows] == [27, 1152]
    assert rows[0]["angle_degrees"] == pytest.approx(36.19, abs=0.006)
    assert rows[0]["std_degrees"] == pytest.approx(3.83, abs=0.006)
    main(["theory", "angle", "--dimension", "27"])
    assert "36.185" in capsys.readouterr().out


def test_angle_of_ternary_levels(capsys):
    main(["theory", "angle", "--dimension", "27", "--threshold", ".612", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["cosine"] == pytest.approx(theory.ternary_cosine(0.612, 27))
    assert row["angle_degrees"] == pytest.approx(
        np.degrees(theory.angle_mean(row["cosine"], row["cosine_std"], 27)), rel=1e-9
    )


def test_ternary_prints_the_table(capsys):
    main(["theory", "ternary", "--thresholds", "0", ".612", "--json"])
    sign, best = json.loads(capsys.readouterr().out)
    assert (sign["angle_degrees"], sign["zeros_percent"]) == (pytest.approx(37.07, abs=0.006), 0)
    assert best["angle_degrees"] == pytest.approx(25.85, abs=0.006)
    assert best["zeros_percent"] == pytest.approx(45.9, abs=0.06)


def test_table_prints_all_of_them_and_writes_json(capsys, tmp_path):
    main(["theory", "table", "--json", str(tmp_path / "tables.json")])
    printed = capsys.readouterr().out
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert len(tables) == 7
    for title, rows in tables.items():
        assert title.split()[0] in printed
        assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["angle", "--dimension", "0"], "--dimension must be an integer >= 1; got 0"),
        (["angle", "--threshold", "-1"], "--threshold must be a number >= 0; got -1"),
        (["ternary", "--thresholds", "-1"], "--thresholds must be a number >= 0; got -1"),
    ],
)
def test_bad_options_are_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["theory", *words])
    assert capsys.readouterr().err == f"hypersign theory: {message}\n"
