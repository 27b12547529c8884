"""The angle of each method's levels on trained weights, measured beside predicted.

    python experiments/method_angles.py RUN_OR_SAFETENSORS ... [--json FILE]

Every weight of two and more dimensions counts as a layer; means are over layers. `hypersign inspect RUN --methods`
adds r and sign flips.
"""

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console

from hypersign.geometry import method_geometry, methods_table
from hypersign.runs import load, read_tensors

FIELDS = ("angle_degrees", "normal_degrees", "moments_degrees")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    answer = {}
    for source in options.sources:
        path = Path(source)
        tensors, _ = read_tensors(path if path.suffix == ".safetensors" else load(source).path / "model.safetensors")
        layers = [method_geometry(weight) for name, weight in tensors.items() if weight.dim() > 1]
        name = path.name if path.name != "model.safetensors" else path.parent.name
        Console().print(name, methods_table(layers))
        answer[name] = {
            "layers": len(layers),
            "methods": {
                rows[0].method: {
                    field.removesuffix("_degrees"): round(value, 3)
                    for field in FIELDS
                    if (value := statistics.fmean(getattr(row, field) for row in rows)) == value  # no NaN in JSON
                }
                for rows in zip(*layers, strict=True)
            },
        }
    if options.json:
        options.json.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
