import subprocess
import sys

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.figures import panels, save
from hypersign.figures.style import axes, layer_colours, logarithmic


def test_panels_draw_each_result_on_its_own_axes():
    fig = panels(lambda result, ax: ax.set_title(str(result)), [1, 2, 3, 4], columns=3)
    assert [ax.get_title() for ax in fig.axes] == ["1", "2", "3", "4"]


def test_panels_of_nothing_say_so():
    with pytest.raises(HypersignError, match="at least one result"):
        panels(lambda result, ax: None, [])


def test_saves_pdf_and_png_and_leaves_nothing_else(tmp_path):
    ax = axes(None)
    ax.plot([0, 1], [0, 1])
    written = save(ax.get_figure(), tmp_path / "figures", "line")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["line.pdf", "line.png"]
    assert written[0].read_bytes().startswith(b"%PDF")
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_the_same_figure_gives_the_same_files(tmp_path):
    for folder in ("a", "b"):
        save(axes(None).get_figure(), tmp_path / folder, "empty")
    for name in ("empty.pdf", "empty.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(HypersignError, match="taken"):
        save(axes(None).get_figure(), tmp_path / "taken", "line")


def test_a_failed_save_keeps_the_old_file_and_leaves_no_part(tmp_path):
    (tmp_path / "line.pdf").write_text("old")
    fig = axes(None).get_figure()
    fig.savefig = lambda *args, **kwargs: (_ for _ in ()).throw(OSError("No space left on device"))
    with pytest.raises(HypersignError, match="No space left"):
        save(fig, tmp_path, "line")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("line.pdf", "old")]


@pytest.mark.parametrize("count", [0, 1, 2, 9, 30])
def test_layer_colours_are_distinct_and_readable_on_both_backgrounds(count):
    colours = layer_colours(count)
    assert len(set(colours)) == count
    for colour in colours:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 3  # on white; WCAG's ratio for graphics
        assert (luminance + 0.05) / 0.06 >= 3  # on the report's dark ground


def test_logarithmic_axes_have_plain_numbers():
    ax = axes(None)
    ax.plot([20, 5000], [1, 2])
    logarithmic(ax, "x")
    ax.get_figure().draw_without_rendering()
    assert {"50", "200", "1000"} <= {label.get_text() for label in ax.get_xticklabels()}


def test_importing_figures_does_not_import_matplotlib_and_its_absence_names_the_extra():
    code = (
        "import sys, hypersign.figures as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "try: f.loss([])\n"
        "except f.style.HypersignError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install " in done.stdout
    assert "[report]" in done.stdout
