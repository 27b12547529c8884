import dataclasses
import json
import math
import re
from typing import Any

import pytest

from hypersign._checks import HypersignError
from hypersign.models import build
from hypersign.summaries import summary
from hypersign.training import RECIPES, Recipe, train


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        Recipe(),
        Recipe(widths=(8, 16), pools=(2,), hidden=(), levels=3, threshold="optimal", float_weights=("conv1", "fc1")),
        Recipe(model="mlp", hidden=(3,), images=100, gradient_clip=None, threshold=0.25, norm_scale=True),
    ],
    ids=[*RECIPES, "default", "vgg", "mlp"],
)
def test_survives_json(recipe):
    back = Recipe(**json.loads(json.dumps(recipe.as_dict())))
    assert back == recipe
    assert hash(back) == hash(recipe)  # lists have become tuples again


def test_the_paper_s_recipe():
    recipe = RECIPES["anderson-berg-2018"]
    assert (recipe.epochs, recipe.batch_size, recipe.loss, recipe.optimizer) == (500, 50, "squared-hinge", "adam")
    assert (recipe.learning_rate, recipe.final_learning_rate, recipe.gradient_clip) == (1e-3, 3e-7, 1.0)
    assert (recipe.validation, recipe.flip, recipe.crop_padding) == (500, False, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"epochs must be an integer >= 1; got 0"),
        ({"epochs": 2.5}, r"epochs must be an integer >= 1; got 2\.5"),
        ({"batch_size": 0}, r"batch_size must be an integer >= 1; got 0"),
        ({"validation": -1}, r"validation must be an integer >= 0; got -1"),
        ({"crop_padding": -1}, r"crop_padding must be an integer >= 0; got -1"),
        ({"reestimate_images": -1}, r"reestimate_images must be an integer >= 0; got -1"),
        ({"images": 0}, r"images must be an integer >= 1; got 0"),
        ({"seed": -1}, r"seed must be an integer from 0 to \d+; got -1"),
        ({"seed": 2**64}, r"seed must be an integer from 0 to \d+; got 18446744073709551616"),
        ({"learning_rate": 0.0}, r"learning_rate must be a number > 0; got 0"),
        ({"learning_rate": math.nan}, r"learning_rate must be a number > 0; got nan"),
        ({"final_learning_rate": -1e-3}, r"final_learning_rate must be a number >= 0; got -0\.001"),
        ({"schedule": "exponential"}, r"final_learning_rate must be > 0 with the exponential schedule; got 0"),
        ({"weight_decay": -1.0}, r"weight_decay must be a number >= 0; got -1"),
        ({"weight_decay": 0.1}, r"adam takes no weight decay; got weight_decay 0\.1: use adamw or sgd"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be a number >= 0 and <= 1; got 1\.5"),
        (
            {"label_smoothing": 0.1, "loss": "squared-hinge"},
            r"label_smoothing belongs to the cross-entropy; got it with the loss squared-hinge",
        ),
        (
            {"label_smoothing": 0.1, "teacher": "runs/other"},
            r"a teacher's answers are soft labels already; got label_smoothing too: leave it out",
        ),
        ({"gradient_clip": 0.0}, r"gradient_clip must be a number > 0; got 0"),
        (
            {"optimizer": "sgd", "adam_epsilon": "uncorrected"},
            r"adam_epsilon belongs to adam and adamw; got it with the optimizer sgd",
        ),
        ({"model": "lenet"}, r"model must be one of vgg, mlp, vgg-small, .*; got 'lenet'"),
        ({"model": None}, r"model must be one of vgg, .*; got None"),
        ({"surrogate": "relu"}, r"surrogate must be one of hardtanh, .*; got 'relu'"),
        ({"loss": "hinge"}, r"loss must be one of squared-hinge, cross-entropy; got 'hinge'"),
        ({"loss": None}, r"loss must be one of squared-hinge, cross-entropy; got None"),
        ({"optimizer": "lion"}, r"optimizer must be one of adam, adamw, sgd; got 'lion'"),
        ({"adam_epsilon": "no"}, r"adam_epsilon must be one of corrected, uncorrected; got 'no'"),
        ({"schedule": "step"}, r"schedule must be one of exponential, cosine, linear; got 'step'"),
        ({"schedule_per": "batch"}, r"schedule_per must be one of epoch, step; got 'batch'"),
        ({"latent_clip": "always"}, r"latent_clip must be one of after-step, before-forward, none; got 'always'"),
        ({"precision": "fp16"}, r"precision must be one of float32, bf16, bits; got 'fp16'"),
        ({"model": "mlp", "pools": (1,), "widths": (4,)}, r"mlp has no option pools, widths; its options are "),
        ({"model": "resnet20", "continuous": False}, r"resnet20 has no option continuous; its options are widths"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_refuses(fields, message):
    with pytest.raises(HypersignError, match=f"^{message}"):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"method": "paretoq", "surrogate": "tanh"},
            "surrogate changes nothing with paretoq:count=2 and float, which",
        ),
        (
            {"method": "reste", "surrogate": "tanh"},
            "surrogate changes nothing with sign:scale=tensor,surrogate=power",
        ),
        ({"method": "adabin", "weight_scale": "filter"}, "weight_scale changes nothing with adabin, which has none"),
        ({"method": "adabin", "sign_zero": 0}, "sign_zero changes nothing with adabin and adabin-inputs"),
        (
            {"method": "ls-t", "threshold": "optimal"},
            "threshold changes nothing with ternary:threshold=least-squares",
        ),
        ({"method": "bitnet", "threshold": 0.3}, "threshold changes nothing with bitnet and int8"),
        ({"method": "hadanets", "weight_scale": 8}, "weight_scale changes nothing with sign:group=16"),
        ({"threshold": 0.25}, "threshold changes nothing with sign, which has none or its own: leave it out"),
    ],
)
def test_options_that_change_nothing(fields, message, tmp_path):
    recipe = Recipe.of(**fields, data="digits", epochs=1) if "method" in fields else Recipe(**fields)
    with pytest.raises(HypersignError, match=re.escape(message)):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_that_reach_one_side():
    for fields in ({"surrogate": "tanh"}, {"weight_scale": 8}, {"levels": 3, "threshold": 0.1}, {"sign_zero": 0}):
        Recipe(**fields).check_used()
    Recipe.of("ir-net", surrogate="polynomial").check_used()
    Recipe(model="lstm", weight_scale="filter").check_used()


def test_model_options_are_those_that_are_set():
    assert Recipe().model_options() == {"levels": 2}
    assert Recipe(levels=3, hidden=[], norm_scale=False).model_options() == {
        "levels": 3,
        "hidden": (),
        "norm_scale": False,
    }


def test_exponential_rate_decays_once_in_the_first_epoch_and_ends_at_the_last_rate():
    recipe = Recipe(
        epochs=500, learning_rate=1e-3, final_learning_rate=3e-7, schedule="exponential", schedule_per="epoch"
    )
    factor = (3e-7 / 1e-3) ** (1 / 500)
    rate = 1e-3
    for epoch in range(1, 501):
        rate *= factor
        assert recipe.rate(epoch=epoch, progress=0.02) == pytest.approx(rate, rel=1e-12)
        assert recipe.rate(epoch=epoch, progress=1.0) == recipe.rate(epoch=epoch, progress=0.02)
    assert recipe.rate(epoch=500, progress=0.02) == 3e-7


def test_exponential_rate_by_the_step():
    recipe = Recipe(epochs=4, learning_rate=1.0, final_learning_rate=2.0**-16, schedule="exponential")
    # 16 halvings over 4 epochs: 4 an epoch, 1 a quarter of an epoch
    found = [recipe.rate(epoch=e, progress=p) for e, p in [(1, 0.25), (1, 1.0), (2, 0.25), (3, 0.5), (4, 1.0)]]
    assert found == [2.0**-n for n in (1, 4, 5, 10, 16)]


def test_cosine_rate_by_the_epoch_starts_at_the_first_rate():
    recipe = Recipe(epochs=4, learning_rate=1.0, final_learning_rate=0.2, schedule_per="epoch")
    for epoch, expected in [(1, 1.0), (2, 0.6 + 0.4 * math.sqrt(0.5)), (3, 0.6), (4, 0.6 - 0.4 * math.sqrt(0.5))]:
        assert recipe.rate(epoch=epoch, progress=1.0) == pytest.approx(expected, rel=1e-12)


def test_cosine_rate_by_the_step_ends_at_the_last_rate():
    recipe = Recipe(epochs=2, learning_rate=1.0, final_learning_rate=0.0, schedule="cosine", schedule_per="step")
    found = [recipe.rate(epoch=e, progress=p) for e, p in [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]]
    assert found == pytest.approx([0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0], abs=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"weights": "cubic"}, "quantizer must be one of"),
        ({"levels": 4}, "levels must be 2"),
        ({"weight_scale": 0}, "0"),
        ({"sign_zero": 3}, "3"),
    ],
)
def test_what_is_quantized_is_checked_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        Recipe(**options)


def test_two_cores_is_binary_but_for_its_ends(tmp_path):
    """At least 95 % of multiply-accumulates are products of signs; it trains on bits in one command."""
    recipe = RECIPES["two-cores"]
    model = build(recipe.model, (3, 32, 32), 10, **recipe.model_options())
    found = summary(model, (3, 32, 32))
    assert found.binary_share > 0.95
    assert found.total.mixed_macs == 0
    small = dataclasses.replace(recipe, images=100, epochs=1, batch_size=50, widths=(4, 4), reestimate_images=50)
    run = train(dataclasses.replace(small, data="digits", flip=False, crop_padding=0), tmp_path / "run", device="cpu")
    assert run.info["recipe"]["precision"] == "bits"
    assert run.info["results"]
