"""Inspection: everything that HyperSign measures in a network, beside the prediction of theory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int
from hypersign.data import TextData
from hypersign.geometry import weights
from hypersign.geometry.advice import layer_advice
from hypersign.geometry.capture import Batches, LayerCapture, capture
from hypersign.geometry.covariance import (
    Covariances,
    LayerCovariance,
    components,
    input_covariances,
    predict,
    what_if_curves,
)
from hypersign.geometry.methods import method_geometry
from hypersign.geometry.results import DotProducts, Geometry, LayerGeometry
from hypersign.runs import Run
from hypersign.tasks import Classification, Task

__all__ = ["StageProgress", "inspect", "silent"]

StageProgress = Callable[[str, int, int], object]
"""A function that is called with the name of the current work, how much of it is done, and how much there is."""

SEQUENCES = 200
"""The most sequences of a text that a run is inspected on: each has as many products as characters."""

BATCH = 50
"""Images per batch of a run: with 50, the four kinds of dot products of the largest layer take 100 MB."""


def silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


def inspect(
    model: nn.Module | Run,
    batches: Batches | None = None,
    *,
    name: str = "",
    dataset: str = "",
    task: Task | None = None,
    covariances: Covariances | None = None,
    images: int = _defaults.INSPECTED_IMAGES,
    weights: str = "last",
    seed: int = 0,
    methods: bool = False,
    progress: StageProgress = silent,
) -> Geometry:
    """Measures the geometry of every quantized layer of a network, beside its prediction.

    Memory does not grow with the number of images. The model does not change.

    Args:
        model: a run, for which only `images`, `weights`, `seed`, `methods` and `progress` are used; or any network
            with quantized layers.
        batches: pairs of inputs `(N, ...)`, in the range the model was trained on, and targets.
        name: the name of the network, written into the result.
        dataset: the name of the data, written into the result.
        task: the network's task, which says which decisions are correct; `Classification()` if None.
        covariances: the result of `input_covariances(model, training_batches)` on other images; r is predicted from
            it for each filter.
        images: a run is measured on its first `images` test images. Its predictions come from about as many training
            images, spread over all of them. A text has sequences in place of images, at most `SEQUENCES`.
        weights: the weights of a run to use: "last", or "best" by validation accuracy.
        seed: the seed of the permutation test.
        methods: also predict what each method of the field would do to each layer's latent weights.
        progress: called after each batch with what is measured, the number of examples seen, and the number of
            examples in all (0 if unknown).

    Raises:
        HypersignError: the model has no quantized layer, or the forward pass does not reach one; there are no
            examples; weights, activations or outputs are NaN or infinite (the message names the layer); outputs or
            targets do not fit the task; a run's weights or data are missing.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2 and 3.

    >>> import torch
    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(QuantLinear(256, 10, weight_quantizer=Sign()))
    >>> _ = nn.init.normal_(model[0].weight)
    >>> batch = torch.randn(100, 256), torch.zeros(100, dtype=torch.long)
    >>> found = inspect(model, [batch], name="example").layers[0].weights_binarized
    >>> round(found.pearson_r, 1), round(found.independent_pearson_r, 1)
    (0.8, 0.8)
    """
    if isinstance(model, Run):
        if batches is not None:
            raise HypersignError("a run brings its own images; leave the batches out, or pass the run's model")
        return _inspect_run(model, images, weights, seed, progress, methods)
    if batches is None:
        raise HypersignError("a model is inspected on batches of (inputs, targets); got none")
    task = Classification() if task is None else task
    seen = capture(model, batches, task=task, seed=seed, progress=lambda seen: progress("measuring", seen, 0))
    known = {} if covariances is None else covariances.layers
    unknown = {} if covariances is None else covariances.unmeasured
    return Geometry(
        run=name,
        dataset=dataset,
        images=seen.examples,
        accuracy=seen.accuracy,
        layers=tuple(
            _layer_geometry(layer, known.get(layer.name), unknown.get(layer.name, ""), methods)
            for layer in seen.layers
        ),
        covariance_images=covariances.images if covariances is not None else 0,
    )


def _inspect_run(run: Run, images: int, weights: str, seed: int, progress: StageProgress, methods: bool) -> Geometry:
    check_int("images", images, min=1)
    data, model = run.data(), run.load_model(weights)
    if isinstance(data, TextData):
        images = min(images, SEQUENCES)
        train, test = data.spread(data.train, images), data.test[: images * data.length + 1]
    else:
        train, test = data.train[:: -(-len(data.train) // images)], data.test[:images]
    covariances = input_covariances(
        model,
        data.batches(train, BATCH),
        progress=lambda seen: progress("covariance of the inputs", seen, len(train)),
    )
    return inspect(
        model,
        data.batches(test, BATCH),
        name=run.name,
        dataset=data.name,
        task=run.task(),
        covariances=covariances,
        seed=seed,
        methods=methods,
        progress=lambda what, seen, _: progress(what, seen, len(test)),
    )


def _layer_geometry(
    captured: LayerCapture, covariance: LayerCovariance | None, unmeasured: str, methods: bool
) -> LayerGeometry:
    layer = captured.layer
    angle = weights.angle_stats(layer)
    cosines = np.cos(np.radians(angle.per_filter))
    weight_r = float(np.nanmean(cosines)) if not np.isnan(cosines).all() else np.nan
    input_r = weights.input_cosine(layer)
    products = captured.products
    predicted = {} if covariance is None else predict(covariance)

    def family(name: str, independent: float) -> DotProducts:
        found = predicted.get(name)
        return products.result(
            name,
            training=None if covariance is None else covariance.products,
            predicted=None if found is None else (found.pooled, found.per_filter),
            independent=independent,
        )

    permuted = captured.permuted.result("permuted", independent=weight_r)
    return LayerGeometry(
        name=captured.name,
        kind=type(layer).__name__,
        fan_in=layer.fan_in,
        filters=layer.filters,
        input_quantizer=layer.input_quantizer.describe(),
        weight_quantizer=layer.weight_quantizer.describe(),
        angle_degrees=angle,
        level_shares=weights.level_shares(layer),
        latent_weights=weights.weight_stats(layer),
        weights_binarized=family("weights_binarized", weight_r),
        activations_binarized=family("activations_binarized", input_r),
        both_binarized=family("both_binarized", weight_r * input_r),
        permuted=dataclasses.replace(permuted, predicted_pearson_r=weight_r),
        methods=tuple(map(dataclasses.asdict, method_geometry(layer.weight, covariance))) if methods else (),
        **_from_covariance(covariance, unmeasured),
    )


def _from_covariance(covariance: LayerCovariance | None, unmeasured: str) -> dict[str, Any]:
    """The predictions from the covariance of the layer's inputs, or the reason why there are none."""
    if covariance is None:
        return {"reason": f"no covariance: {unmeasured}" if unmeasured else ""}
    advice = layer_advice(covariance)
    return {
        "effective_dimension": advice.effective_dimension,
        "components": components(covariance),
        "what_if": what_if_curves(covariance),
        "recommendation": advice.recommendation,
        "reason": advice.reason,
    }
