"""A small network's results made from drawn weights and inputs: what figures and the report are tested on."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hypersign.geometry.ablation import Ablated, Ablation, Change, Ranking
from hypersign.geometry.depth import Depth, LayerDepth, LayerR, PermutedR
from hypersign.geometry.results import (
    AngleStats,
    Components,
    Density,
    DotProducts,
    Geometry,
    Histogram,
    LayerGeometry,
    WeightStats,
    WhatIfCurve,
)
from hypersign.report.pictures import Pictures, Sample, filters_of, png

BINS = 50
LAYERS = (("conv1", 27, 32), ("conv2", 288, 32), ("conv3", 576, 64), ("fc1", 4096, 64), ("fc2", 1024, 10))


def geometry(*, ternary: bool = False, run: str = "demo", seed: int = 0) -> Geometry:
    """Five layers, the first with real inputs that share one strong component, as images do."""
    generator = np.random.default_rng(seed)
    layers = tuple(_layer(generator, *layer, ternary, first=not i) for i, layer in enumerate(LAYERS))
    return Geometry(run=run, dataset="digits", images=250, accuracy=0.968, layers=layers, covariance_images=480)


def ablation() -> Ablation:
    """Every layer's weights, and every layer's inputs but the first's, back to float one at a time."""
    names = [name for name, _, _ in LAYERS]
    rows = [
        Ablated(
            side=side,
            scope="one",
            name=name,
            accuracy=0.95,
            loss=0.4 + 0.01 * i,
            accuracy_change=Change(-0.001 * i, 0.002),
            loss_change=Change(0.01 * i, 0.004),
            disturbance=Change(0.01 * i, 0.004),
            logit_r=0.98 - 0.01 * i,
            predicted_logit_r=0.97 - 0.012 * i,
        )
        for side, layers in (("weights", names), ("inputs", names[1:]))
        for i, name in enumerate(layers)
    ]
    rankings = tuple(Ranking(side, "one", 0.9, 1.0, 10, 6, 5, (), 0.9, 6, 6) for side in ("weights", "inputs"))
    layers = tuple(LayerR(name, 0.8, 0.8, 0.64, 0.0) for name in names)
    return Ablation(300, 2, 0.968, 0.01, 0.4, 0.02, layers, tuple(rows), rankings)


def depth() -> Depth:
    """Correlations that fall with depth."""
    return Depth(
        300,
        tuple(
            LayerDepth(
                name=name,
                own_r=0.85,
                r=0.8 - 0.05 * i,
                training_r=0.8 - 0.06 * i,
                input_flips=0.1,
                training_input_flips=0.12,
                permuted=tuple(PermutedR(kept, 0.8, 0.8) for kept in ("global", "sample", "position")),
            )
            for i, (name, _, _) in enumerate(LAYERS)
        ),
    )


def metrics(epochs: int = 12) -> list[dict]:
    """What a run's metrics.jsonl holds; the first epochs have no validation."""
    return [
        {
            "epoch": e,
            "step": 29 * e,
            "seconds": 2.5 * e,
            "images_per_second": 3900.0 + 10 * e,
            "learning_rate": 1e-3 * 0.6**e,
            "loss": 0.9 * 0.75**e + 0.02,
            "accuracy": 1 - 0.6 * 0.7**e,
            "validation_loss": None if e < 3 else 0.9 * 0.78**e + 0.05,
            "validation_accuracy": None if e < 3 else 0.97 - 0.6 * 0.7**e,
            "layers": {
                name: {"flipped_signs": 0.09 * 0.8**e / (i + 1), "angle_degrees": 37 - (5 - i) * 0.6**e}
                for i, (name, _, _) in enumerate(LAYERS)
            },
        }
        for e in range(1, epochs + 1)
    ]


def summary() -> SimpleNamespace:
    """The attributes of a Summary: one row a layer, and the sums."""
    rows = tuple(
        SimpleNamespace(
            name=name,
            kind="QuantConv2d" if name.startswith("conv") else "QuantLinear",
            input_shape=(fan_in // 9, 8, 8) if name.startswith("conv") else (fan_in,),
            output_shape=(filters, 8, 8) if name.startswith("conv") else (filters,),
            input_quantizer="Identity()" if name == "conv1" else "Sign()",
            weight_quantizer="Sign()",
            parameters_1bit=fan_in * filters,
            parameters_2bit=0,
            parameters_3bit=0,
            parameters_other=0,
            parameters_unknown=0,
            parameters_32bit=filters,
            packed_bytes=fan_in * filters // 8 + 4 * filters,
            float_bytes=4 * (fan_in + 1) * filters,
            binary_macs=0 if name == "conv1" else fan_in * filters * 64,
            mixed_macs=fan_in * filters * 64 if name == "conv1" else 0,
            float_macs=0,
        )
        for name, fan_in, filters in LAYERS
    )
    counted = (
        "parameters_1bit",
        "parameters_2bit",
        "parameters_3bit",
        "parameters_other",
        "parameters_unknown",
        "parameters_32bit",
        "packed_bytes",
        "float_bytes",
        "binary_macs",
        "mixed_macs",
        "float_macs",
    )
    total = SimpleNamespace(name="total", **{key: sum(getattr(row, key) for row in rows) for key in counted})
    return SimpleNamespace(
        layers=rows,
        total=total,
        file_bytes=None,
        compression=total.float_bytes / total.packed_bytes,
        binary_share=0.99,
        mixed_widths="8 x 1-bit",
    )


def forecast() -> dict[str, Any]:
    """The content of a forecast.json: two layers in float and a quantized one, in two formats."""
    changes = [{"layer": name, "format": form} for name in ("conv1", "conv2") for form in ("binary", "ternary")]

    def effect(agreement: float, **fields: Any) -> dict[str, Any]:
        return {"r": agreement, "agreement": agreement, "r_error": 0.01, "agreement_error": 0.02, **fields}

    layers = [
        {
            "name": name,
            "weights": 800,
            "quantized": name == "conv3",
            "raw": {},
            "repaired": {"binary": effect(0.9 - 0.1 * i, destroyed=False), "ternary": effect(0.95)},
            "bytes": {"float": 3200, "binary": 100, "ternary": 200},
        }
        for i, name in enumerate(("conv1", "conv2", "conv3"))
    ]
    # Independent errors whose squares are 1, .25, .5, .25: E = ln(1 + 1 + .5) / 2 if both layers are binary.
    law = {
        "changes": changes,
        "products": [[size if i == j else 0.0 for j in range(4)] for i, size in enumerate((1.0, 0.25, 0.5, 0.25))],
        "factor": 0.9,
        "power": 0.8,
        "crowding": 0.0,
        "coherence": 0.0,
        "curve": {"r": [0.3, 0.6, 1.0], "kl": [2.0, 1.0, 0.0], "agreement": [0.4, 0.7, 1.0]},
        "bias": {"log_kl": 0.0, "agreement": 0.02},
        "spread": {"log_r": 0.1, "log_kl": 0.2, "agreement": 0.04},
    }
    return {
        "run": "float",
        "unit": "images",
        "inputs": 300,
        "decisions": 300,
        "formats": ["binary", "ternary"],
        "other_bytes": 500,
        "layers": layers,
        "words": {"repaired": "conv2 matters most: binary weights there alone change 20.0 % of decisions."},
        "laws": {"raw": None, "repaired": law},
        "plan": {"assignment": {"conv1": "binary", "conv2": "float"}},
    }


def pictures() -> Pictures:
    """Two right images, a wrong one, and four filters."""
    generator = np.random.default_rng(3)
    image = png(generator.integers(0, 256, (8, 8, 1), dtype=np.uint8))
    latent = generator.normal(0, 1, (4, 1, 3, 3))
    return Pictures(
        (Sample(image, "3", "8"), Sample(image, "3", "3"), Sample(image, "5", "5")),
        filters_of("conv1", latent, np.sign(latent), (1, 8, 8)),
    )


def run(name: str = "demo", **fields: Any) -> SimpleNamespace:
    """What a report reads of a run."""
    return SimpleNamespace(name=name, path=Path("runs") / name, info=run_info(name) | fields, metrics=metrics)


def run_info(name: str = "demo") -> dict:
    """Some of what a run's run.json holds."""
    return {
        "name": name,
        "model": {"name": "vgg", "options": {"widths": [32, 32, 64], "levels": 2}},
        "recipe": {"epochs": 12, "batch_size": 50, "loss": "squared_hinge", "learning_rate": 1e-3, "seed": 0},
        "dataset": {"name": "digits", "sha256": "0" * 64},
        "versions": {"hypersign": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    }


def _layer(
    generator: np.random.Generator, name: str, fan_in: int, filters: int, ternary: bool, *, first: bool
) -> LayerGeometry:
    pattern = generator.choice([-1.0, 1.0], fan_in)
    latent = generator.normal(0, 0.18, (filters, fan_in))
    if not first:
        latent = np.clip(latent + 0.03 * pattern * generator.normal(0, 1, (filters, 1)), -1, 1)
    threshold = 0.02 if ternary else 0.0
    levels = np.where(np.abs(latent) > threshold, np.sign(latent), 0.0)
    common = generator.normal(0, 1, (300, 1)) * (3 * np.abs(pattern) if first else 0.5 * pattern)
    real = generator.normal(0, 1, (300, fan_in)) + common
    quantized = real if first else np.where(np.abs(real) > threshold, np.sign(real), 0.0)
    permuted = generator.permuted(quantized, axis=1)

    cosine = (latent * levels).sum(1) / np.sqrt((latent**2).sum(1) * (levels**2).sum(1))
    angle = np.degrees(np.arccos(cosine))
    predicted = 37.071 - 23.66 / fan_in - (3.4 if ternary else 0.0)
    spread = 20.18 / math.sqrt(fan_in)
    grid = np.linspace(predicted - 5 * spread, predicted + 5 * spread, 160)
    density = _kernel_density(angle, grid)
    weight_grid = np.linspace(-1, 1, 161)
    expected = math.cos(math.radians(predicted))
    real_input = 1.0 if first else expected
    return LayerGeometry(
        name=name,
        kind="QuantConv2d" if name.startswith("conv") else "QuantLinear",
        fan_in=fan_in,
        filters=filters,
        input_quantizer="Identity()" if first else "Sign()",
        weight_quantizer="Ternary(threshold=0.02)" if ternary else "Sign()",
        angle_degrees=AngleStats(
            mean=float(angle.mean()),
            std=float(angle.std()),
            peak=float(grid[density.argmax()]),
            predicted_mean=predicted,
            predicted_std=spread,
            moments_mean=predicted + 0.1,
            moments_std=spread,
            per_filter=_floats(angle),
            density=Density(_floats(grid), _floats(density)),
            predicted_density=Density(_floats(grid), _floats(_normal(grid, predicted, spread))),
        ),
        level_shares={
            "-1": float((levels < 0).mean()),
            "0": float((levels == 0).mean()),
            "+1": float((levels > 0).mean()),
        },
        latent_weights=WeightStats(
            mean=float(latent.mean()),
            std=float(latent.std()),
            skewness=0.01,
            kurtosis=3.02,
            absolute_mean=float(np.abs(latent).mean()),
            density=Density(_floats(weight_grid), _floats(_kernel_density(latent.ravel()[:4000], weight_grid))),
            thresholds=(-0.02, 0.02) if ternary else (0.0,),
        ),
        weights_binarized=_products(quantized @ levels.T, quantized @ latent.T, expected),
        activations_binarized=_products(real @ levels.T, quantized @ levels.T, real_input),
        both_binarized=_products(real @ latent.T, quantized @ levels.T, expected * real_input),
        permuted=_products(permuted @ levels.T, permuted @ latent.T, expected),
        effective_dimension=fan_in / 3,
        components=Components((1, 2, fan_in), (0.5, 0.7, 1.0), (0.1, 0.2, 1.0), (0.12, 0.22, 1.0)),
        what_if=tuple(
            WhatIfCurve(
                rotation=rotation,
                kind=kind,
                filters=32,
                values=values,
                angle_degrees=tuple(37.0 - 5 * i for i in range(len(values))),
                pearson_r=tuple(base + 0.1 * i for i in range(len(values))),
                sign_flip_share=tuple(0.2 - 0.05 * i for i in range(len(values))),
                both_pearson_r=tuple(base - 0.1 + 0.1 * i for i in range(len(values))),
            )
            for rotation, base in (("none", 0.7), ("hadamard", 0.75))
            for kind, values in (("threshold", (0.0, 0.5, 1.0)), ("levels", (2.0, 3.0, 4.0)))
        ),
        recommendation="ternarize" if first else "binarize",
        reason="r = 0.70 with one bit is below 0.75; 0.90 with ternary levels" if first else "r = 0.80 with one bit",
    )


def _products(x: np.ndarray, y: np.ndarray, predicted: float) -> DotProducts:
    per_filter = [float(np.corrcoef(x[:, f], y[:, f])[0, 1]) for f in range(x.shape[1])]
    r = float(np.corrcoef(x.ravel(), y.ravel())[0, 1])
    slope, intercept = np.polyfit(x.ravel(), y.ravel(), 1)
    x_limit, y_limit = 3.5 * x.std(), 3.5 * y.std()
    x_edges, y_edges = np.linspace(-x_limit, x_limit, BINS + 1), np.linspace(-y_limit, y_limit, BINS + 1)
    inside_x, inside_y = (np.clip(v, -t * 0.999, t * 0.999).ravel() for v, t in ((x, x_limit), (y, y_limit)))
    counts, _, _ = np.histogram2d(inside_x, inside_y, bins=(x_edges, y_edges))
    return DotProducts(
        pearson_r=r,
        pearson_r_per_filter=tuple(per_filter),
        pearson_r_error=0.002,
        training_pearson_r=r + 0.001,
        training_pearson_r_error=0.002,
        training_pearson_r_per_filter=tuple(value + 0.001 for value in per_filter),
        predicted_pearson_r=predicted,
        predicted_pearson_r_per_filter=tuple(value - 0.01 for value in per_filter),
        independent_pearson_r=predicted,
        training_sign_disagreement=float((np.sign(x) != np.sign(y)).mean()) + 0.001,
        slope=float(slope),
        intercept=float(intercept),
        sign_disagreement=float((np.sign(x) != np.sign(y)).mean()),
        predicted_sign_disagreement=math.acos(predicted) / math.pi,
        histogram=Histogram(_floats(x_edges), _floats(y_edges), tuple(tuple(int(c) for c in row) for row in counts)),
    )


def _kernel_density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    width = 1.06 * values.std() * len(values) ** -0.2
    return np.mean([_normal(grid, value, width) for value in values], axis=0)


def _normal(grid: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-(((grid - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
