"""The forecast, compared with the world: predicted and measured effects of formats on whole networks.

    HYPERSIGN_DATA=... python experiments/forecast.py [--networks resnet20 vgg] [--folder runs/forecast] [--json FILE]

For each network: every change alone (forecast on some inputs, measured on others), beside four rivals with their
cost; random mixtures of binary, ternary and 4-level layers, without and with repair; and plans at five budgets,
against a uniform format and plans by SQNR and by Fisher, each repaired. Float networks are trained first.
EfficientNet-lite0 needs two packages that HyperSign does not depend on; the command says which.

It can be stopped and started again: each finished cell is a JSON file in --folder and is skipped. Measured cells do
not depend on the law that combines changes: after a change of the law, only the tables are made again.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
import torch
from forecast_networks import NETWORKS, PIXELS, Network, network
from forecast_rivals import RIVALS
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr

from hypersign._files import write_atomic
from hypersign._json import plain, prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.forecasting import (
    DESTROYED,
    FORMATS,
    Effect,
    Estimate,
    Forecast,
    Law,
    Mixture,
    Option,
    cheapest,
    effect,
    fit,
    forecast,
)
from hypersign.forecasting.bench import Bench
from hypersign.forecasting.choice import COSTS
from hypersign.forecasting.effects import error_of_mean
from hypersign.forecasting.formats import sides_of
from hypersign.forecasting.mixtures import together
from hypersign.forecasting.planning import best, smallest

MIXED = {"binary": 1.0, "ternary": 1.0, "4-level": 1.0}
"""Formats of the random mixtures, and how strongly each is drawn."""

MILD = {"binary": 0.2, "ternary": 0.3, "4-level": 1.0, "8-level": 4.0}
"""The same for EfficientNet: harsher mixtures destroy it, so there would be nothing to compare."""

BUDGETS = (1.25, 1.5, 2.0, 2.5, 3.0)
"""Budgets: bits per weight, where 1 stands for the size of all layers binary, 2 of all 4-level, 3 of all 8-level."""

ROUNDS, LONG = 3, 10.0
"""Quick and full forecasts are timed in turns this often, but once where a full one takes this many seconds."""

PLANS = ("forecast", "uniform", "SQNR", "Fisher")
SIDES = ("raw", "repaired")

Array = NDArray[Any]
Cell = dict[str, Any]


def cell(path: Path, make: Callable[[], Cell]) -> Cell:
    """The finished cell in `path`; made and kept if it is not there."""
    if path.exists():
        found: Cell = json.loads(path.read_text())
        return found
    start, used = time.perf_counter(), time.process_time()
    found = plain({**make(), "seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - used})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(found, indent=1) + "\n")
    Console(stderr=True).print(f"{path.parent.name}: {path.stem} ({found['seconds']:.0f} s)", highlight=False)
    return found


class World:
    """One network's measurements: cells on disk, and the forecast, which is made when a cell needs it."""

    def __init__(self, subject: Network, folder: Path, mixtures: int) -> None:
        self.subject, self.folder, self.mixtures = subject, folder / subject.name, mixtures
        self._bench: Bench | None = None
        self._held: tuple[list[Any], Array] | None = None

    @property
    def bench(self) -> Bench:
        """The network with the inputs that the forecast sees."""
        if self._bench is None:
            groups = self.subject.groups
            numbers = None if groups is None else np.unique(groups, return_inverse=True)[1]
            self._bench = Bench(self.subject.model, self.subject.calibration, numbers)
        return self._bench

    def others(self) -> tuple[list[Any], Array]:
        """The other inputs, and the original's logits on them."""
        if self._held is None:
            self._held = self.bench.others(self.subject.others)
        return self._held

    @property
    def other_groups(self) -> Array | None:
        """The photograph or play of each of the other inputs."""
        groups = self.subject.other_groups
        return None if groups is None else np.array(groups)

    def alone(self) -> Cell:
        """The forecast: every change alone, and the few mixtures that the law is fitted to."""

        def make() -> Cell:
            found = forecast(self.subject.model, self.subject.calibration, groups=self.subject.groups)
            self._bench = found.bench
            self.folder.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, Any] = {"original": found.bench.original}
            for side in SIDES:
                law = found.law(side == "repaired")
                arrays |= {f"{side}_residuals": law.residuals, f"{side}_gains": law.gains}
            np.savez(self.folder / "alone.npz", **arrays)
            mixtures = {
                side: [
                    {"picks": list(m.picks), "measured": m.measured.as_dict()}
                    for m in found.law(side == "repaired").mixtures
                ]
                for side in SIDES
            }
            return {"forecast": _without_laws(found), "keys": found.keys, "mixtures": mixtures}

        return cell(self.folder / "alone.json", make)

    def laws(self) -> dict[str, Law]:
        """The laws without and with repair, made again from the kept logits."""
        known = self.alone()
        with np.load(self.folder / "alone.npz") as arrays:
            return {
                side: fit(
                    Law(
                        arrays["original"],
                        arrays[f"{side}_residuals"],
                        arrays[f"{side}_gains"],
                        groups=None if self.subject.groups is None else np.array(self.subject.groups),
                    ),
                    [Mixture(tuple(m["picks"]), _effect(m["measured"])) for m in known["mixtures"][side]],
                )
                for side in SIDES
            }

    def picks(self, assignment: Mapping[str, str]) -> list[int]:
        """The numbers of the changes of an assignment."""
        numbers = {tuple(key): number for number, key in enumerate(self.alone()["keys"])}
        return [numbers[layer, text] for layer, text in assignment.items() if text != "float"]

    def singles(self) -> Cell:
        """Every change alone on other inputs, without repair: direct."""

        def make() -> Cell:
            found = forecast(self.subject.model, self.subject.others, repaired=False, mixtures=0)
            kl = [_of(found, key).kl.value for key in found.keys]
            return {"kl": kl, "passes": found.passes, "inputs": found.inputs}

        return cell(self.folder / "singles.json", make)

    def rivals(self) -> Cell:
        """Scores of the rivals and of the quick mode, with their cost."""

        def make() -> Cell:
            keys = [tuple(key) for key in self.alone()["keys"]]
            found: Cell = {}
            for name, rival in RIVALS.items():
                try:
                    made = rival(self.bench, keys)
                except RuntimeError as error:  # no second derivative
                    found[name] = {"why_not": str(error)[:200]}
                    continue
                found[name] = {**made, "scores": [made["scores"][key] for key in keys]}
            made, seconds = self.timed()
            found["forecast, quick"] = {
                "scores": [1 - _of(made[True], key).r.value for key in keys],  # r needs fewer inputs than KL
                "passes": made[True].passes * made[True].inputs / self.bench.inputs,
                "seconds": seconds[True],
            }
            found["direct_seconds"] = seconds[False]
            return found

        return cell(self.folder / "rivals.json", make)

    def timed(self) -> tuple[dict[bool, Forecast], dict[bool, float]]:
        """Every change alone, quick (True) and on all inputs (False), and the least processor seconds of each."""
        made: dict[bool, Forecast] = {}
        seconds = {True: math.inf, False: math.inf}
        for _ in range(ROUNDS):
            for quick in seconds:
                start = time.process_time()
                made[quick] = forecast(
                    self.subject.model, self.subject.calibration, repaired=False, mixtures=0, quick=quick
                )
                seconds[quick] = min(seconds[quick], time.process_time() - start)
            if seconds[False] > LONG:
                break
        return made, seconds

    def measured(self, name: str, assignment: Mapping[str, str], sides: Iterable[str] = SIDES) -> Cell:
        """An assignment measured on other inputs, without and with repair; per input what pairing needs."""

        def make() -> Cell:
            held, original = self.others()
            formats = {layer: sides_of(text) for layer, text in assignment.items() if text != "float"}
            found: Cell = {"assignment": dict(assignment)}
            for side in sides:
                logits = self.bench.together(formats, repaired=side == "repaired", batches=held)
                found[side] = effect(original, logits, self.other_groups).as_dict()
                found[f"{side}_parts"] = [round(float(part), 9) for part in r_parts(original, logits)]
                found[f"{side}_agree"] = (original.argmax(-1) == logits.argmax(-1)).mean(1).round(4).tolist()
            return found

        return cell(self.folder / f"{name}.json", make)

    def random_mixtures(self) -> list[Cell]:
        """Random mixtures measured."""
        layers = [row["name"] for row in self.alone()["forecast"]["layers"]]
        drawn = mixtures_of(layers, self.mixtures, mild=self.subject.fragile)
        return [self.measured(f"mixture-{number:02}", assignment) for number, assignment in enumerate(drawn)]

    def own(self, assignment: Mapping[str, str]) -> Cell:
        """What the forecast says of a plan: measured on its own inputs, repair on those it has not seen."""

        def make() -> Cell:
            sides = {layer: sides_of(text) for layer, text in assignment.items() if text != "float"}
            found = together(self.bench, sides, repaired=True)
            assert found.influence is not None
            return {**found.as_dict(), "influence": found.influence.round(12).tolist()}

        return cell(self.folder / f"own-{_short(assignment)}.json", make)

    def plans(self) -> dict[str, dict[str, Cell]]:
        """Plans at each budget by each method, measured; none for a network that is quantized already."""
        rows = self.alone()["forecast"]["layers"]
        if any(row["quantized"] for row in rows):
            return {}
        found: dict[str, dict[str, Cell]] = {}
        for bits in BUDGETS:
            mine = found.setdefault(f"{bits:g}", {"forecast": self.planned(rows, bits)})
            for method in PLANS[1:]:
                assignment = plan_of(rows, method, bits, self.scores(method))
                mine[method] = self.measured(f"plan-{bits:g}-{method.lower()}", assignment, ["repaired"])
        return found

    def planned(self, rows: Sequence[Cell], bits: float) -> Cell:
        """The plan that `Forecast.plan` chooses, with its forecast (`own`), and measured."""
        effects = {(row["name"], text): _effect(row["repaired"][text]) for row in rows for text in FORMATS}
        tables = [options_of(rows, {key: cost(found) for key, found in effects.items()}) for cost in COSTS]

        def measure(chosen: Sequence[Option]) -> Effect:
            own = self.own(_assignment(rows, chosen))
            return dataclasses.replace(_effect(own), influence=np.array(own["influence"]))

        chosen, _ = best(tables, budget_of(rows, bits), measure)
        assignment = _assignment(rows, chosen)
        made = self.measured(f"plan-{bits:g}-forecast-{_short(assignment)}", assignment, ["repaired"])
        return {**made, "own": self.own(assignment)}

    def scores(self, method: str) -> dict[tuple[str, str], float]:
        """The cost of each change for a rival's plan: a sum over layers is made small."""
        keys = [tuple(key) for key in self.alone()["keys"]]
        if method == "uniform":
            return {}
        return dict(zip(keys, self.rivals()[method]["scores"], strict=True))


def _of(found: Forecast, key: tuple[str, str]) -> Effect:
    return next(layer for layer in found.layers if layer.name == key[0]).raw[key[1]]


def _without_laws(found: Forecast) -> Cell:
    return dataclasses.replace(found, raw_law=None, repaired_law=None).as_dict()


def _effect(found: Mapping[str, float]) -> Effect:
    return Effect(*(Estimate(found[name], found[f"{name}_error"]) for name in ("r", "kl", "agreement")))


def r_parts(original: Array, changed: Array) -> Array:
    """The influence of each input on r of the logits, times the number of inputs: its mean square is n times se^2."""
    n = len(original)
    c, s = (values.reshape(n, -1).astype(np.float64) for values in (original, changed))
    cross, ss, cc = (s * c).sum(1), (s * s).sum(1), (c * c).sum(1)
    total = math.sqrt(ss.sum() * cc.sum())
    r = cross.sum() / total
    return n * (cross / total - r / 2 * (ss / ss.sum() + cc / cc.sum()))


def mixtures_of(layers: Sequence[str], count: int, *, mild: bool = False, seed: int = 1) -> list[dict[str, str]]:
    """Random assignments: L^u of the L layers change, in random proportions of the formats.

    u is uniform from 0 to 1, and the proportions follow a Dirichlet distribution. `mild`: u to 0.8, mostly 8-level.
    """
    generator = np.random.default_rng(seed)
    formats, reach = (MILD, 0.8) if mild else (MIXED, 1.0)
    found = []
    for _ in range(count):
        number = round(len(layers) ** (reach * generator.uniform()))
        proportions = generator.dirichlet(list(formats.values()))
        chosen = set(generator.permutation(len(layers))[:number].tolist())
        texts = [list(formats)[int(i)] for i in generator.choice(len(formats), len(layers), p=proportions)]
        found.append({layer: texts[i] for i, layer in enumerate(layers) if i in chosen})
    return found


def plan_of(
    rows: Sequence[Cell], method: str, bits: float, scores: Mapping[tuple[str, str], float]
) -> dict[str, str]:
    """The assignment with the smallest sum of scores under a budget; "uniform": the largest format that fits."""
    budget = budget_of(rows, bits)
    if method == "uniform":
        fits = [
            text for text in ("binary", "4-level", "8-level") if sum(row["bytes"][text] for row in rows) <= budget
        ]
        return {row["name"]: fits[-1] for row in rows}
    chosen = cheapest(options_of(rows, scores), budget)
    assert chosen is not None
    return _assignment(rows, chosen)


def budget_of(rows: Sequence[Cell], bits: float) -> int:
    """The bytes of this many bits per weight, scales included."""
    sizes = [sum(row["bytes"][text] for row in rows) for text in ("binary", "4-level", "8-level")]
    return max(int(np.interp(bits, (1, 2, 3), sizes)), smallest(options_of(rows, {})))


def options_of(rows: Sequence[Cell], scores: Mapping[tuple[str, str], float]) -> list[list[Option]]:
    """For each layer the formats that a plan may choose, with their scores as costs."""
    return [
        [Option("float", row["bytes"]["float"], 0.0)]
        + [Option(text, row["bytes"][text], scores.get((row["name"], text), 0.0)) for text in FORMATS]
        for row in rows
    ]


def _assignment(rows: Sequence[Cell], chosen: Sequence[Option]) -> dict[str, str]:
    return {row["name"]: option.name for row, option in zip(rows, chosen, strict=True)}


def _short(assignment: Mapping[str, str]) -> str:
    """A short name of an assignment."""
    return hashlib.sha256(json.dumps(assignment, sort_keys=True).encode()).hexdigest()[:8]


# ---------------------------------------------------------------------------------------------- tables


def ranks(world: World) -> Cell:
    """Rank correlation of each score with direct KL on other inputs: over all changes, and within formats."""
    keys = [tuple(key) for key in world.alone()["keys"]]
    rows = {row["name"]: row["raw"] for row in world.alone()["forecast"]["layers"]}
    direct = world.singles()
    truth = np.array(direct["kl"])
    own = {
        "scores": [rows[layer][text]["kl"] for layer, text in keys],
        "passes": direct["passes"],
        "seconds": world.rivals()["direct_seconds"],
    }
    found: Cell = {}
    for name, made in {"forecast": own, **world.rivals()}.items():
        if not isinstance(made, dict):  # seconds
            continue
        if "why_not" in made:
            found[name] = made
            continue
        scores = np.array(made["scores"])
        within = {}
        for text in FORMATS:
            mine = [number for number, key in enumerate(keys) if key[1] == text]
            within[text] = _rank(scores[mine], truth[mine])
        found[name] = {
            "all": _rank(scores, truth),
            "within": within,
            "passes": made["passes"],
            "seconds": made["seconds"],
        }
    return found


def _rank(first: Array, second: Array) -> float:
    return float(spearmanr(first, second)[0]) if len(set(first)) > 1 and len(set(second)) > 1 else math.nan


def assignments(world: World) -> Cell:
    """Predicted against measured effects of the random mixtures, and the rivals' rank of r."""
    cells, laws, found = world.random_mixtures(), world.laws(), {}
    sums = {name: world.scores(name) for name in ("SQNR", "Fisher")}
    for side in SIDES:
        predicted = [laws[side].predict(world.picks(made["assignment"])) for made in cells]
        points = [
            {
                "layers": len(made["assignment"]),
                **{f"predicted_{name}": getattr(p, name).value - getattr(p, name).bias for name in NUMBERS},
                **{f"error_{name}": getattr(p, name).error for name in NUMBERS},
                **{f"measured_{name}": made[side][name] for name in NUMBERS},
                **{f"measured_{name}_error": made[side][f"{name}_error"] for name in NUMBERS},
            }
            for made, p in zip(cells, predicted, strict=True)
        ]
        rivals = {
            name: -_rank(
                np.array([sum(costs[key] for key in made["assignment"].items()) for made in cells]),
                np.array([made[side]["r"] for made in cells]),
            )
            for name, costs in sums.items()
        }
        found[side] = {**summary_of(points), "rank_of_rivals": rivals, "points": points}
        found[side] |= {"factor": laws[side].factor, "power": laws[side].power}
        if world.subject.kinds:
            found[side]["kinds"] = kinds_of(
                world, laws[side], [made for made in cells if made[side]["r"] >= DESTROYED], side
            )
    return found


def kinds_of(world: World, law: Law, cells: Sequence[Cell], side: str) -> Cell:
    """Mean agreement of each kind of inputs over mixtures: predicted (without the known bias), and measured."""
    found: Cell = {}
    for name, (given, held) in world.subject.kinds.items():
        for title, wanted in ((name, True), ("others", False)):
            ours, theirs = (np.array(which) == wanted for which in (given, held))
            predicted = [
                (law.logits(world.picks(made["assignment"])).argmax(-1) == law.original.argmax(-1))[ours].mean()
                for made in cells
            ]
            measured = [np.array(made[f"{side}_agree"])[theirs].mean() for made in cells]
            found[title] = {
                "inputs": int(theirs.sum()),
                "predicted": _mean(np.array(predicted)),
                "measured": _mean(np.array(measured)),
            }
    return found


NUMBERS = ("r", "kl", "agreement")


def summary_of(points: Sequence[Mapping[str, float]]) -> Cell:
    """Mean absolute errors of a law: r where it is at least .6, agreement where at least .5, ln KL where r is."""
    row = {name: np.array([point[name] for point in points]) for name in points[0]}
    alive, agreeing = row["measured_r"] >= DESTROYED, row["measured_agreement"] >= 0.5
    some = row["measured_r"] >= 0.1  # below, how the logits of different images happen to correlate decides
    apart = row["predicted_r"] - row["measured_r"]
    agree = row["predicted_agreement"] - row["measured_agreement"]
    logs = np.log(np.maximum(row["predicted_kl"], 1e-9) / np.maximum(row["measured_kl"], 1e-9))
    said = row["predicted_r"] < DESTROYED
    return {
        "mixtures": len(points),
        "alive": int(alive.sum()),
        "r": _mean_abs(apart[alive]),
        "r_bias": _mean(apart[alive]),
        "within_2_errors": {
            name: _mean(
                abs(row[f"predicted_{name}"] - row[f"measured_{name}"])[alive]
                <= 2 * np.hypot(row[f"error_{name}"], row[f"measured_{name}_error"])[alive]
            )
            for name in NUMBERS
        },
        "agreement": _mean_abs(agree[agreeing]),
        "agreement_bias": _mean(agree[agreeing]),
        "log_kl": _mean_abs(logs[alive]),
        "log_kl_bias": _mean(logs[alive]),
        "rank": _rank(row["predicted_r"], row["measured_r"]),
        "rank_above_a_tenth": _rank(row["predicted_r"][some], row["measured_r"][some]),
        "destroyed": int((~alive).sum()),
        "wrongly_destroyed": int((said & alive).sum()),
        "missed_destroyed": int((~said & ~alive).sum()),
    }


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _mean_abs(values: Array) -> float:
    return _mean(np.abs(values))


def plan_rows(world: World) -> list[Cell]:
    """Each budget: the plan's predicted and measured effect, and its paired difference from each rival's plan."""
    law, rows = world.laws()["repaired"], []
    for bits, made in world.plans().items():
        mine = made["forecast"]
        by_law = law.predict(world.picks(mine["assignment"]))
        versus = {}
        for method in PLANS[1:]:
            other = made[method] if made[method]["assignment"] != mine["assignment"] else mine
            versus[method] = {
                "r": other["repaired"]["r"],
                "agreement": other["repaired"]["agreement"],
                "r_gain": mine["repaired"]["r"] - other["repaired"]["r"],
                "r_error": _paired(mine["repaired_parts"], other["repaired_parts"], world.other_groups),
                "agreement_gain": mine["repaired"]["agreement"] - other["repaired"]["agreement"],
                "agreement_error": _paired(mine["repaired_agree"], other["repaired_agree"], world.other_groups),
            }
        rows.append(
            {
                "bits": float(bits),
                "by_law": {name: getattr(by_law, name).value - getattr(by_law, name).bias for name in NUMBERS},
                "predicted": {name: value for name, value in mine["own"].items() if name != "influence"},
                "measured": mine["repaired"],
                "against": versus,
                "assignment": mine["assignment"],
            }
        )
    return rows


def _paired(first: Sequence[float], second: Sequence[float], groups: Array | None = None) -> float:
    """The standard error of the mean difference over the same inputs, or groups of them."""
    return error_of_mean(np.subtract(first, second), groups)


def print_tables(result: Cell) -> None:
    """The tables of the page."""
    singles = rich.table.Table(
        "network", "score", "rank, all", *FORMATS, "passes", "seconds", title="Changes alone: rank of direct KL"
    )
    mixed = rich.table.Table(
        "network", "", "alive", "r", "agreement", "ln KL", "rank of r", "SQNR", "Fisher", "destroyed: said, wrongly",
        title="Random mixtures: mean abs(predicted - measured)",
    )  # fmt: skip
    plans = rich.table.Table(
        "network", "bits", "r predicted", "r", "agreement predicted", "agreement", *(f"r, {m}" for m in PLANS[1:]),
        title="Plans, repaired, on other inputs: r and the paired gain over each rival's plan",
    )  # fmt: skip
    for name, found in result["networks"].items():
        for score, row in found.get("ranks", {}).items():
            if "all" in row:
                within = (f"{row['within'][text]:.2f}" for text in FORMATS)
                singles.add_row(
                    name, score, f"{row['all']:.3f}", *within, f"{row['passes']:.1f}", f"{row['seconds']:.1f}"
                )
        for side, row in found.get("assignments", {}).items():
            mixed.add_row(
                name, side, f"{row['alive']}/{row['mixtures']}", f"{row['r']:.4f} ({row['r_bias']:+.3f})",
                f"{row['agreement']:.3f}", f"{row['log_kl']:.2f}", f"{row['rank']:.3f}",
                *(f"{row['rank_of_rivals'][rival]:.2f}" for rival in ("SQNR", "Fisher")),
                f"{row['destroyed'] - row['missed_destroyed']}/{row['destroyed']}, {row['wrongly_destroyed']}",
            )  # fmt: skip
        for row in found.get("plans", []):
            plans.add_row(
                name, f"{row['bits']:g}", f"{row['predicted']['r']:.3f}", f"{row['measured']['r']:.3f}",
                f"{row['predicted']['agreement']:.3f}", f"{row['measured']['agreement']:.3f}",
                *(_against(row["against"][method]) for method in PLANS[1:]),
            )  # fmt: skip
    for table in (singles, mixed, plans):
        rich.print(table)


def _against(row: Cell) -> str:
    return f"{row['r']:.3f} ({row['r_gain']:+.3f} ± {row['r_error']:.3f})"


def measure(world: World) -> Cell:
    """All cells of a network, and its tables."""
    world.alone()
    found: Cell = {
        "title": world.subject.title,
        "inputs": world.bench.inputs,
        "others": sum(map(len, world.subject.others)),
        "layers": len(world.alone()["forecast"]["layers"]),
        "passes": world.alone()["forecast"]["passes"],
        "seconds": world.alone()["forecast"]["seconds"],
    }
    found["assignments"] = assignments(world)
    found["plans"] = plan_rows(world)
    found["ranks"] = ranks(world)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--folder", type=Path, default=Path("runs/forecast"), help="of finished cells and runs")
    parser.add_argument("--inputs", type=int, default=128, help="inputs to forecast on (default 128)")
    parser.add_argument("--images", type=int, default=1000, help="other inputs to measure on (default 1000)")
    parser.add_argument("--mixtures", type=int, default=60, help="random mixtures per network (default 60)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the float networks (default 6)")
    parser.add_argument("--device", default="cpu", help="of the networks (default cpu)")
    parser.add_argument("--pixels", type=int, default=PIXELS, help=f"of EfficientNet's inputs (default {PIXELS})")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="of which EfficientNet sees crops")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw predicted against measured")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    result: Cell = {
        "benchmark": "forecast",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "networks": {},
    }
    if arguments.photographs is not None:
        result["photographs"] = sorted(file.stem for file in arguments.photographs.iterdir())
    for name in arguments.networks:
        subject = network(
            name,
            arguments.folder,
            inputs=arguments.inputs,
            others=arguments.images,
            epochs=arguments.epochs,
            device=arguments.device,
            pixels=arguments.pixels,
            pictures=arguments.photographs,
        )
        result["networks"][name] = measure(World(subject, arguments.folder, arguments.mixtures))
    write_json(result, arguments.json)
    if arguments.figure is not None:
        draw(result, arguments.figure)
    if prints_text(arguments.json):
        print_tables(result)


def draw(result: Cell, target: Path) -> None:
    """Predicted against measured r and agreement, one point per mixture, one panel per network."""
    from matplotlib import pyplot as plt

    from hypersign.figures.style import GUIDE, MEASURED, PREDICTED

    networks = result["networks"]
    figure, axes = plt.subplots(2, len(networks), figsize=(2.6 * len(networks), 5.2), squeeze=False)
    for column, found in enumerate(networks.values()):
        for row, number in enumerate(("r", "agreement")):
            axis = axes[row][column]
            axis.plot([0, 1], [0, 1], color=GUIDE, linewidth=0.8, zorder=0)
            for side, colour in zip(SIDES, (PREDICTED, MEASURED), strict=True):
                points = found["assignments"][side]["points"]
                x, y = ([point[f"{kind}_{number}"] for point in points] for kind in ("measured", "predicted"))
                axis.scatter(x, y, s=9, color=colour, label=side, alpha=0.8, linewidths=0)
            axis.set_xlim(0, 1.02)
            axis.set_ylim(0, 1.02)
            axis.set_aspect("equal")
            axis.set_xlabel(f"measured {number}" + (" of the logits" if number == "r" else ""))
            if column == 0:
                axis.set_ylabel(f"predicted {number}")
        axes[0][column].set_title(found["title"].replace(", ", "\n", 1), fontsize=8)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
