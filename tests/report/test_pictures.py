import base64
import io

import numpy as np
import pytest
from PIL import Image

from hypersign.report import filters_of, samples_of
from hypersign.report.pictures import png


def pixels(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_holds_its_pixels(channels):
    drawn = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(png(drawn)).reshape(drawn.shape), drawn)


def test_wrong_images_come_first_and_are_at_most_eight():
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1) * np.ones((1, 1, 2, 2), dtype=np.uint8)
    truth = np.zeros(40, dtype=int)
    decided = np.where(np.arange(40) % 4 == 1, 1, 0)  # ten are wrong: 1, 5, 9, ...
    samples = samples_of(images, truth, decided, ("cat", "dog"))
    assert len(samples) == 24
    assert [sample.wrong for sample in samples] == [True] * 8 + [False] * 16
    assert (samples[0].truth, samples[0].decision) == ("cat", "dog")
    shown = [int(pixels(sample.image)[0, 0]) for sample in samples]
    assert shown == [*range(1, 32, 4), *[i for i in range(40) if i % 4 != 1][:16]]


def test_filters_are_tiles_in_blue_and_orange():
    latent = np.array([[[[1.0, -1.0], [0.5, 0.0]]]] * 2)
    found = filters_of("conv1", latent, np.sign(latent), (1, 8, 8))
    assert (found.layer, found.count) == ("conv1", 2)
    sheet = pixels(found.latent)
    assert sheet.shape == (2, 2 * 2 + 1, 3)
    assert [tuple(map(int, sheet[at])) for at in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))] == [
        (31, 95, 191),
        (177, 68, 10),
        (143, 175, 223),
        (255, 255, 255),
        (128, 128, 128),
    ]


def test_filters_of_a_linear_layer_have_the_shape_of_the_input():
    weights = np.random.default_rng(1).normal(size=(3, 12))
    assert pixels(filters_of("fc1", weights, np.sign(weights), (3, 2, 2)).levels).shape[2] == 3


@pytest.mark.parametrize(
    ("weights", "shape"),
    [((4, 13), (3, 2, 2)), ((4, 8, 3, 3), (3, 8, 8)), ((4, 2, 3, 3), (2, 8, 8)), ((4, 3, 1, 1), (3, 8, 8))],
)
def test_what_is_no_picture_is_left_out(weights, shape):
    drawn = np.ones(weights)
    assert filters_of("layer", drawn, drawn, shape) is None
