"""The same variables and inputs, and the same 30 steps, as the original authors' code computed them."""

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hypersign.models import build
from hypersign.tasks import LOSSES, Classification
from hypersign.training.recipe import RECIPES, Recipe
from hypersign.training.step import Step, make_optimizer

FOLDER = Path(os.environ.get("HYPERSIGN_ORACLE", Path(__file__).parents[2] / ".." / "shared" / "oracle"))
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the oracle's folder is absent; HYPERSIGN_ORACLE names one"
)

SCOPES = {
    "layer_1": ("conv1", "norm1"),
    "layer_2": ("conv2", "norm2"),
    "fc_layer_1": ("fc1", "norm3"),
    "fc_layer_2": ("fc2", "norm4"),
}
TIE = 1e-4
"""Pre-activations nearer to 0 than this may round to another sign."""


@functools.cache
def read(name: str) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays), json.loads((FOLDER / f"{name}.json").read_text())


def images(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()  # NHWC -> NCHW


def weight(kernel: np.ndarray, channels: int = 1) -> Tensor:
    """A kernel of theirs in our layout: HWIO -> OIHW; (in, out) -> (out, in).

    `channels`: of the images that were flattened in front of it, as (H, W, C) there and (C, H, W) here.
    """
    if kernel.ndim == 4:
        return torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
    filters = kernel.shape[1]
    if channels > 1:
        side = round((len(kernel) / channels) ** 0.5)
        kernel = kernel.reshape(side, side, channels, filters).transpose(2, 0, 1, 3).reshape(-1, filters)
    return torch.from_numpy(kernel).T.contiguous()


def state(arrays: dict[str, np.ndarray], prefix: str, model: nn.Sequential) -> dict[str, Tensor]:
    """The variables under `prefix` as a state_dict of `model`."""
    values: dict[str, Tensor] = {}
    for scope, (layer, norm) in SCOPES.items():
        channels = model.conv2.filters if layer == "fc1" else 1
        values[f"{layer}.weight"] = weight(arrays[f"{prefix}{scope}/W"], channels)
        for ours, theirs in (("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
            values[f"{norm}.{ours}"] = torch.from_numpy(arrays[f"{prefix}{scope}/BatchNorm/{theirs}"])
        values[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    return values


def recipe(info: dict, **changes) -> Recipe:
    """The recipe of the original: its network's parameters, its order of things, its epsilon."""
    network, optimizer = info["network_params"], info["optimizer_params"]
    values = {
        "widths": tuple(network["conv"]),
        "pools": tuple(i for i, pooled in enumerate(network["max_pool"], start=1) if pooled),
        "hidden": tuple(network["fc"]),
        "filter_size": network["filter_size"],
        "norm_epsilon": 1e-3,
        "norm_momentum": 0.001,
        "sign_zero": 0,
        "batch_size": optimizer["batch_size"],
        "learning_rate": optimizer["learning_rate"],
        "latent_clip": "before-forward",
        "adam_epsilon": "uncorrected",
    }
    return dataclasses.replace(
        RECIPES["anderson-berg-2018"], **{"data": "digits", "validation": 0, **values, **changes}
    )


def network(recipe: Recipe, arrays: dict[str, np.ndarray], prefix: str) -> nn.Sequential:
    model = build("vgg", (3, 12, 12), 10, **recipe.model_options())
    model.load_state_dict(state(arrays, prefix, model))
    return model


# ---------------------------------------------------------------------------------------------- one forward pass


@pytest.fixture(scope="module")
def forward():
    arrays, info = read("binary_forward")
    model = network(recipe(info), arrays, "var/").eval()
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, y, name=name: outputs.update({name: y}))
    with torch.no_grad():
        outputs["logits"] = model(images(arrays["x"]))
    return arrays, model, outputs


@pytest.mark.parametrize(("layer", "norm"), SCOPES.values())
def test_pre_and_post_activations_match_away_from_ties(forward, layer: str, norm: str) -> None:
    arrays, model, outputs = forward
    before = arrays[f"{layer}/pre_bin_act"]
    ours = outputs[norm]
    if ours.dim() == 4:
        ours = ours.permute(0, 2, 3, 1)  # NCHW -> NHWC
    np.testing.assert_allclose(ours.numpy(), before, atol=1e-5)
    after = arrays[f"{layer}/post_bin_act"]
    if layer == "fc2":  # the logits: no quantizer
        np.testing.assert_allclose(ours.numpy(), after, atol=1e-5)
        return
    away = np.abs(before) > TIE
    assert away.mean() > 0.99
    following = model.conv2 if layer == "conv1" else model.fc1 if layer == "conv2" else model.fc2
    np.testing.assert_array_equal(following.input_quantizer(ours).numpy()[away], after[away])


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1", "fc2"])
def test_quantized_weights_match(forward, layer: str) -> None:
    arrays, model, _ = forward
    module = model.get_submodule(layer)
    channels = 32 if layer == "fc1" else 1
    assert torch.equal(module.weight, weight(arrays[f"{layer}/wc"], channels))
    assert torch.equal(module.quantized_weight(), weight(arrays[f"{layer}/wb"], channels))


def test_logits_and_predictions_match(forward) -> None:
    arrays, _, outputs = forward
    np.testing.assert_allclose(outputs["logits"].numpy(), arrays["logits"], atol=1e-5)
    np.testing.assert_array_equal(outputs["logits"].argmax(1).numpy(), arrays["pred"])
    np.testing.assert_array_equal(arrays["pred"] == arrays["y"], arrays["correct"])


# ------------------------------------------------------------------------------------------------ thirty steps


def stepper(model: nn.Module, chosen: Recipe) -> Step:
    optimizer = make_optimizer(chosen, list(model.parameters()))
    return Step(model, chosen, Classification(LOSSES[chosen.loss]), optimizer, contextlib.nullcontext, guard=True)


def steps(prefix: str = "", **changes):
    """Yields (number of steps done, loss, accuracy, model) for the 30 batches, from the saved start."""
    arrays, info = read("train_steps_binary")
    epochs = 3 if prefix == "decay/" else 1  # the same batches as 3 epochs of 10, the rate decaying after each
    decay = info["optimizer_params"]["epoch_decay_rate"] ** epochs
    chosen = recipe(info, epochs=epochs, final_learning_rate=1e-3 * decay, **changes)
    model = network(chosen, arrays, "step0/").train()
    step = stepper(model, chosen)
    for i in range(30):
        rate = chosen.rate(epoch=i * chosen.epochs // 30 + 1, progress=1.0)
        np.testing.assert_allclose(rate, arrays[f"{prefix}lr"][i], rtol=1e-6)
        labels = torch.from_numpy(arrays["y"][i]).long()
        loss, measured, _ = step(images(arrays["x"][i]), labels, rate)
        yield arrays, i + 1, loss.item(), measured["accuracy"].item() / len(labels), model


@pytest.mark.parametrize("prefix", ["", "decay/"], ids=["one-epoch", "decaying-rate"])
def test_thirty_steps_match(prefix: str) -> None:
    compared = set()
    for arrays, done, loss, accuracy, model in steps(prefix):
        assert abs(loss - arrays[f"{prefix}loss"][done - 1]) < 1e-6, done
        assert accuracy == pytest.approx(arrays[f"{prefix}accuracy"][done - 1], abs=1e-6), done
        if f"{prefix}step{done}/layer_1/W" not in arrays:
            continue
        compared.add(done)
        for name, theirs in state(arrays, f"{prefix}step{done}/", model).items():
            ours = model.state_dict()[name]
            if name.endswith("num_batches_tracked"):
                continue
            # Two versions of TensorFlow part by 3e-5 in a moving variance of 100: that is their float32.
            moving = "running" in name
            np.testing.assert_allclose(
                ours.numpy(), theirs.numpy(), rtol=1e-6 if moving else 0, atol=1e-6, err_msg=f"{name} after {done}"
            )
    assert compared == ({10, 20, 30} if prefix else {1, 2, 4, 5, 9, 10, 29, 30})


def test_first_gradients_match() -> None:
    arrays, info = read("train_steps_binary")
    chosen = recipe(info)
    model = network(chosen, arrays, "step0/").train()
    logits = model(images(arrays["x"][0]))
    LOSSES[chosen.loss](logits, torch.from_numpy(arrays["y"][0]).long()).backward()
    for scope, (layer, norm) in SCOPES.items():
        module = model.get_submodule(layer)
        theirs = weight(arrays[f"grad1/{scope}/W"], 32 if layer == "fc1" else 1)
        np.testing.assert_allclose(module.weight.grad.numpy(), theirs.numpy(), atol=1e-7)
        shift = model.get_submodule(norm).bias.grad
        np.testing.assert_allclose(shift.numpy(), arrays[f"grad1/{scope}/BatchNorm/beta"], atol=1e-7)


@pytest.mark.parametrize(
    "switch",
    [
        {"adam_epsilon": "corrected"},
        {"norm_momentum": 0.1},
        {"norm_epsilon": 1e-5},
        {"surrogate": "straight-through"},
    ],
    ids=lambda switch: next(iter(switch)),
)
def test_each_switch_is_needed(switch: dict) -> None:
    """With a default in place of the original's choice the trajectories part: the comparison has teeth."""
    apart = 0.0
    for arrays, done, loss, _, model in steps(**switch):
        apart = max(apart, abs(loss - arrays["loss"][done - 1]))
        if f"step{done}/layer_1/W" in arrays:
            theirs = state(arrays, f"step{done}/", model)
            ours = model.state_dict()
            apart = max(apart, *((ours[n] - v).abs().max().item() for n, v in theirs.items() if "num" not in n))
    assert apart > 1e-4


def test_clipping_before_the_forward_pass_leaves_weights_one_step_outside() -> None:
    """The oracle's weights stay far from 1 in 30 steps, so the order of clipping is shown on a single weight."""
    saved = {}
    for clip in ("before-forward", "after-step", "none"):
        chosen = Recipe(model="mlp", hidden=(), latent_clip=clip)
        model = build("mlp", (1, 1, 2), 2, **chosen.model_options())
        model.load_state_dict({"fc1.weight": torch.tensor([[1.5, -1.5], [-0.5, 0.5]])}, strict=False)
        seen = []
        model.fc1.weight_quantizer.register_forward_pre_hook(
            lambda _, x, seen=seen: seen.append(x[0].abs().max().item())
        )
        step = stepper(model, chosen)
        # A weight beyond the clip has no gradient of its own; momentum pushes it out, as in training.
        for parameter in model.parameters():
            step.optimizer.state[parameter] = {
                "step": torch.tensor(1.0),
                "exp_avg": -parameter.detach().sign(),
                "exp_avg_sq": torch.ones_like(parameter),
            }
        step(torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]]), torch.tensor([0, 1]), 0.1)
        saved[clip] = (seen[0], model.fc1.weight.abs().max().item())
    assert saved["before-forward"][0] == 1.0
    assert 1.0 < saved["before-forward"][1] < 1.5
    assert saved["after-step"] == (1.5, 1.0)
    assert saved["none"][0] == 1.5 < saved["none"][1]
