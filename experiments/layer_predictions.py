"""r of dot products, layer by layer: measured on test images, from training images, and predicted.

    HYPERSIGN_DATA=... python experiments/layer_predictions.py RUN [--train 1000] [--test 2000] [--json [FILE]]
                                                               [--figure FILE]

For each layer and family (weights, activations, both binarized) it prints the pooled r on test images with its
standard error, the difference of r on training images and of the predicted r, and the medians over filters of the
absolute differences; beside that of training images the one that sampling alone gives ("by chance": .67 standard
errors of a difference). Below are the means over layers. Pass a run folder, or the name of a shipped network.
`--figure` draws each filter's measured against its predicted r.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table

from hypersign import figures, geometry
from hypersign._json import plain, prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.runs import Run, load

FAMILIES = ("weights_binarized", "activations_binarized", "both_binarized")
BATCH = 50
MEDIAN = 0.6745  # of the absolute value of a standard normal
DPI = 90


def measured(run: Run, train: int, test: int) -> tuple[geometry.Geometry, geometry.Covariances]:
    """Inspects `test` test images, with predictions from `train` training images, both spread over all."""
    data, model = run.data(), run.load_model()
    images = data.train[:: -(-len(data.train) // train)]
    covariances = geometry.input_covariances(model, data.batches(images, BATCH))
    batches = data.batches(data.test[:: -(-len(data.test) // test)], BATCH)
    return geometry.inspect(model, batches, name=run.name, covariances=covariances), covariances


def differences(products: geometry.DotProducts) -> dict[str, float]:
    """The numbers of one layer and family."""
    each = np.array(
        [
            products.pearson_r_per_filter,
            products.training_pearson_r_per_filter,
            products.predicted_pearson_r_per_filter,
        ]
    )
    each = each[:, np.isfinite(each).all(0)]
    return {
        "r": products.pearson_r,
        "error": products.pearson_r_error,
        "training": products.training_pearson_r - products.pearson_r,
        "predicted": products.predicted_pearson_r - products.pearson_r,
        "independent": products.independent_pearson_r - products.pearson_r,
        "training_per_filter": float(np.median(np.abs(each[1] - each[0]))),
        "predicted_per_filter": float(np.median(np.abs(each[2] - each[0]))),
        "departs": products.departs,
        "signs": products.sign_disagreement,
        "training_signs": products.training_sign_disagreement - products.sign_disagreement,
        "normal_signs": products.predicted_sign_disagreement - products.sign_disagreement,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", type=int, default=1000, help="training images (default 1000)")
    parser.add_argument("--test", type=int, default=2000, help="test images (default 2000)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw measured against predicted r per filter")
    options = parser.parse_args()
    found, covariances = measured(load(options.run), options.train, options.test)
    layers: dict[str, Any] = {
        layer.name: {family: differences(getattr(layer, family)) for family in FAMILIES} for layer in found.layers
    }
    both = math.sqrt(1 + covariances.images / found.images)  # the error of a difference, by that on training images
    for name, rows in layers.items():
        products = covariances.layers[name].products
        for family in FAMILIES if products is not None else ():
            errors = products.filter_errors(family)
            rows[family]["chance_per_filter"] = float(MEDIAN * both * np.nanmedian(errors))
    if options.figure is not None:
        figures.predicted_r_families(found).savefig(options.figure, dpi=DPI)
    means = {
        family: {
            what: float(np.mean([abs(rows[family][what]) for rows in layers.values()]))
            for what in ("training", "predicted", "independent", "training_signs", "normal_signs")
        }
        for family in FAMILIES
    }
    result = {
        "experiment": "layer_predictions",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "run": found.run,
        "test_images": found.images,
        "training_images": found.covariance_images,
        "layers": layers,
        "mean_absolute_differences": means,
    }
    write_json(plain(result), options.json)
    if not prints_text(options.json):
        return
    for family in FAMILIES:
        table = rich.table.Table(title=f"{found.run}: {family.replace('_', ' ')}")
        heads = (
            "r",
            "training",
            "predicted",
            "independent",
            "training, per filter",
            "by chance",
            "predicted, per filter",
        )
        for head in ("layer", *heads):
            table.add_column(head, justify="right")
        for name, rows in layers.items():
            row = rows[family]
            table.add_row(
                name,
                f"{row['r']:.4f} ± {row['error']:.4f}",
                *(f"{row[key]:+.4f}" for key in ("training", "predicted", "independent")),
                *(f"{row.get(f'{key}_per_filter', math.nan):.4f}" for key in ("training", "chance", "predicted")),
            )
        table.add_section()
        table.add_row("mean", "", *(f"{means[family][key]:.4f}" for key in ("training", "predicted", "independent")))
        rich.print(table)


if __name__ == "__main__":
    main()
