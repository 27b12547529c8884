from hypersign import figures


def test_families_stand_side_by_side(geometry):
    figure = figures.predicted_r_families(geometry)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["weights binarized", "activations binarized", "both binarized"]
    numbers = [len(ax.lines) - 1 for ax in figure.axes]  # without the diagonal
    assert numbers == [len(geometry.layers), len(geometry.layers) - 1, len(geometry.layers) - 1]
    figure.draw_without_rendering()
