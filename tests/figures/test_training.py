import numpy as np
import pytest

from hypersign import figures


def test_curves_skip_epochs_without_a_value(synthetic):
    metrics = synthetic.metrics()
    ax = figures.loss(metrics)
    training, validation = ax.lines
    assert list(training.get_xdata()) == [entry["epoch"] for entry in metrics]
    assert list(validation.get_xdata()) == [
        entry["epoch"] for entry in metrics if entry["validation_loss"] is not None
    ]


def test_flipped_signs_have_a_line_a_layer(synthetic):
    ax = figures.flipped_signs(synthetic.metrics())
    assert [line.get_label() for line in ax.lines] == [name for name, _, _ in synthetic.LAYERS]
    np.testing.assert_allclose(ax.lines[0].get_ydata()[0], 0.09 * 0.8)


@pytest.mark.parametrize("metrics", [[], [{"epoch": 1, "loss": None}], [{"epoch": 1, "loss": 1.0, "layers": {}}]])
def test_training_curves_of_little_or_nothing_draw(metrics):
    figure = figures.training_curves(metrics)
    figure.draw_without_rendering()
    assert len(figure.axes) == 5


def test_training_curves_hold_five_panels(synthetic):
    labels = [ax.get_ylabel() for ax in figures.training_curves(synthetic.metrics()).axes]
    assert labels == ["loss", "accuracy", "learning rate", "share of signs flipped", "mean angle (degrees)"]


def test_a_single_epoch_that_ends_at_rate_zero_draws():
    """As a recipe of one epoch whose cosine ends at 0; matplotlib would warn of a log axis."""
    figure = figures.training_curves([{"epoch": 1, "learning_rate": 0.0, "layers": {"fc1": {"flipped_signs": 0.0}}}])
    figure.draw_without_rendering()
