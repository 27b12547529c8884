"""Packed language models beside torch's: logits, pieces, decisions, damaged files."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hypersign import HypersignError, pretrained
from hypersign.bits import backend
from hypersign.cli import main
from hypersign.generation import continued
from hypersign.models import build, lstm
from hypersign.packed import PackedText
from hypersign.packed.format import TEXT_KEY
from hypersign.packed.text import is_packed_text, write_text
from hypersign.packing import pack_text, verify_text

CLASSES = "abcdefghijk"
TOKENS = torch.randint(11, (6, 20), generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "binary lstm": ("lstm", {"hidden": [24]}),
    "two layers": ("lstm", {"hidden": [24, 65], "levels": 3, "threshold": "optimal"}),
    "signs of states": ("lstm", {"hidden": [63], "inputs": "sign", "norm": "none", "weight_scale": "filter"}),
    "8-bit states": ("lstm", {"hidden": [64], "inputs": "int8", "weights": "bitnet", "norm": "none"}),
    "float lstm": ("lstm", {"hidden": [24], "weights": "float"}),
    "layer norm": ("lstm", {"hidden": [24], "norm": "layer"}),
    "batch norm": ("lstm", {"hidden": [24], "norm": "batch", "weights": "random-levels:count=3"}),
    "gru": ("lstm", {"hidden": [24], "cell": "gru"}),
    "rnn": ("lstm", {"hidden": [24], "cell": "rnn"}),
    "bitnet": ("gpt", {"width": 32, "blocks": 2, "heads": 2, "weights": "bitnet", "inputs": "int8"}),
    "w1a8 gelu": ("gpt", {"width": 64, "blocks": 1, "heads": 4, "inputs": "int8", "feed_forward": "gelu"}),
    "paretoq": ("gpt", {"width": 32, "blocks": 1, "heads": 2, "weights": "paretoq:count=2", "inner_norm": False}),
    "float gpt": ("gpt", {"width": 32, "blocks": 1, "heads": 2, "weights": "float"}),
}


def network(name):
    torch.manual_seed(0)
    kind, options = NETWORKS[name]
    model = build(kind, (20,), 11, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    if options.get("norm") == "batch":
        model(TOKENS)  # moves the statistics
    return model.eval()


@pytest.fixture(params=NETWORKS)
def packed(request, tmp_path):
    model = network(request.param)
    pack_text(model, tmp_path / "net.hypersign", CLASSES)
    return model, PackedText.load(tmp_path / "net.hypersign"), tmp_path / "net.hypersign"


def test_logits_are_torchs(packed):
    model, ours, _ = packed
    with torch.no_grad():
        theirs = model(TOKENS)
    spread = float(theirs.std())
    found = ours.predict(TOKENS.numpy())
    assert found.dtype == np.float32
    assert float(np.abs(found - theirs.numpy()).mean()) < 1e-4 * spread
    certificate = verify_text(model, ours, TOKENS)
    assert certificate.wrong == 0
    assert certificate.equal + certificate.ties == certificate.decisions == TOKENS.numel()
    memory, parts = None, []
    for piece in TOKENS.split([1, 7, 12], 1):
        logits, memory = ours.read(piece.numpy(), memory)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), found, atol=2e-2 * spread)


def test_levels_take_one_or_two_bits(tmp_path):
    model = build("gpt", (20,), 11, width=128, blocks=1, heads=2, weights="sign", inputs="int8")
    pack_text(model, tmp_path / "one", CLASSES)
    ternary = build("gpt", (20,), 11, width=128, blocks=1, heads=2, weights="bitnet", inputs="int8")
    pack_text(ternary, tmp_path / "two", CLASSES)
    weights = sum(p.numel() for name, p in model.named_parameters() if "attention" in name and p.dim() > 1)
    weights += sum(p.numel() for name, p in model.named_parameters() if "feed_forward" in name and p.dim() > 1)
    grown = (tmp_path / "two").stat().st_size - (tmp_path / "one").stat().st_size
    assert abs(grown - weights / 8) < 64  # one more bit per weight, and the header's words


def test_a_packed_text_needs_no_torch_and_continues_like_the_network(tmp_path):
    for name in ("binary lstm", "bitnet"):
        model, path = network(name), tmp_path / name
        pack_text(model, path, CLASSES)
        packed = PackedText.load(path)
        assert list(continued(packed, [1, 2, 3], 40, seed=5)) == list(continued(model, [1, 2, 3], 40, seed=5))
    code = f"""
import sys
import numpy as np
from hypersign.packed import PackedText
print(PackedText.load({str(tmp_path / "bitnet")!r}).predict(np.array([[1, 2]])).shape)
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "(1, 2, 11)\n", result.stderr


@pytest.mark.skipif(backend() == "numpy", reason="NumPy keeps unpacked levels")
def test_levels_are_in_memory_once(tmp_path):
    """Kernels have them in their own memory, which tracemalloc does not count; nothing else keeps them."""
    path = tmp_path / "net.hypersign"
    pack_text(build("gpt", (20,), 11, width=128, blocks=2, heads=2, weights="bitnet", inputs="int8"), path, CLASSES)
    floats = 2 * 4 * 11 * 128 + 2 * 4 * (4 * 128 + 384 * 3)  # embedding, head, scales and norms
    tracemalloc.start()
    try:
        packed = PackedText.load(path)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert packed.kind == "gpt"
    assert kept < 2 * floats < path.stat().st_size / 2


def test_a_wrong_file_is_found_out(tmp_path):
    model = network("binary lstm")
    pack_text(model, tmp_path / "net", CLASSES)
    other = network("binary lstm")
    with torch.no_grad():
        other.layer1.weight_hh_l0[:8] *= -1
    found = verify_text(other, PackedText.load(tmp_path / "net"), TOKENS)
    assert found.wrong > 0


def test_bad_files_and_tokens(tmp_path):
    path = tmp_path / "net.hypersign"
    pack_text(network("binary lstm"), path, CLASSES)
    assert is_packed_text(path)
    assert "PackedText(lstm, 11 characters" in repr(PackedText.load(path))
    packed = PackedText.load(path)
    for tokens, message in (
        ([[11]], "integers from 0 to 10; got 11"),
        ([[-1]], "integers from 0 to 10; got -1"),
        ([1, 2], r"integers of shape \(N, positions\)"),
        ([[0.5]], "got float64"),
    ):
        with pytest.raises(HypersignError, match=message):
            packed.predict(np.array(tokens))
    with pytest.raises(HypersignError, match="sequences of equal length"):
        packed.predict([[1, 2], [3]])
    assert packed.predict(np.zeros((0, 5), int)).shape == (0, 5, 11)
    content = path.read_bytes()
    for name, changed, message in (
        ("cut", content[:-9], "offsets|truncated|bytes"),
        ("damaged", content[:-4] + b"\x01\x02\x03\x04", "does not give its sha256"),
        ("empty", b"", "truncated"),
    ):
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(HypersignError, match=message):
            PackedText.load(tmp_path / name)
        assert not is_packed_text(tmp_path / "empty")
    with pytest.raises(HypersignError, match="it is no packed language model"):
        PackedText.load(pretrained.folder("digits") / pretrained.PACKED)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: torch.nn.Linear(2, 2), "a network that lstm or gpt built"),
        (lambda: lstm((1, 8, 8), 10, hidden=(4,)), "a network that lstm or gpt built"),
        (lambda: build("lstm", (9,), 11, hidden=[4], inputs="ternary"), "inputs must be real, 8-bit or signs"),
        (
            lambda: build("lstm", (9,), 11, hidden=[4], weights="two-values", norm="none"),
            "layer1.ih has no packed form",
        ),
    ],
)
def test_what_cannot_be_packed(tmp_path, model, message):
    with pytest.raises(HypersignError, match=message):
        pack_text(model(), tmp_path / "net", CLASSES)
    assert not (tmp_path / "net").exists()


def test_the_commands_pack_and_continue_texts(tmp_path, capsys):
    file = tmp_path / "rhyme.txt"
    file.write_text("the cat sat on the mat and the rat ate the hat " * 80)
    run, target = str(tmp_path / "run"), str(tmp_path / "net.hypersign")
    words = ["--model", "lstm", "--hidden", "12", "--epochs", "1", "--batch-size", "8", "--length", "12"]
    main(["train", "--data", f"text:{file}", *words, "--output", run, "--device", "cpu"])
    main(["pack", run, "-o", target, "--verify"])
    assert "0 wrong" in capsys.readouterr().out
    assert json.loads((tmp_path / "net.hypersign.json").read_text())["wrong"] == 0
    main(["generate", run, "--prompt", "the ", "--count", "20"])
    first = capsys.readouterr().out
    main(["generate", target, "--prompt", "the ", "--count", "20"])
    assert capsys.readouterr().out == first
    with pytest.raises(SystemExit):
        main(["generate", target, "--weights", "best"])
    assert "weights must be left out for a packed file" in " ".join(capsys.readouterr().err.split())
    main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "run folder of a network that was trained on a text, or its packed file" in shown
    for words in (["bench", target], ["play", target, "-o", str(tmp_path / "page.html")]):
        with pytest.raises(SystemExit):
            main(words)
        assert "it is a packed language model" in " ".join(capsys.readouterr().err.split())
    assert backend()


WRONG = [None, -1, 0, 1, 3, 2**70, 1.5, "x", [], {}, True, [1], {"a": 1}]


def _mutated(value, random):
    """The JSON value with one entry, somewhere inside, dropped, added or replaced."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.2:
        return WRONG[random.integers(len(WRONG))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[random.integers(len(keys))]
    copy = value.copy()
    if random.random() < 0.2:
        del copy[key]
    else:
        copy[key] = _mutated(value[key], random)
    return copy


def _damaged(tensors, random):
    """The tensors with one of them dropped, doubled, cut, turned, or of another type."""
    name = list(tensors)[random.integers(len(tensors))]
    found, rest = tensors[name], {key: value for key, value in tensors.items() if key != name}
    ways = [
        {},
        {name: found, "extra": found},
        {name: found[:-1]},
        {name: found[..., :-1]},
        {name: found[None]},
        {name: found.T},
        {name: found.astype(np.float32) * np.float32(np.nan)},
        {name: -found if found.dtype == np.float32 else ~found},
        {name: np.zeros(found.shape, np.uint64)},
    ]
    return rest | ways[random.integers(len(ways))]


@pytest.mark.parametrize("name", ["batch norm", "8-bit states", "bitnet", "float gpt"])
def test_mutated_structures_and_tensors_are_refused_or_run(name, tmp_path):
    """A file whose hash is right but whose content is not: one sentence, or a network that runs."""
    pack_text(network(name), tmp_path / "net", CLASSES)
    with safe_open(tmp_path / "net", "np") as file:
        structure = json.loads(file.metadata()[TEXT_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    random = np.random.default_rng(2)
    times, refused = 2000 if os.environ.get("HYPERSIGN_LONG") == "1" else 100, 0
    for _ in range(times):
        one, other = structure, tensors
        if random.random() < 0.6:
            key = list(structure)[random.integers(len(structure))]
            one = {**structure, key: _mutated(structure[key], random)}
        else:
            other = _damaged(tensors, random)
        write_text(tmp_path / "other", one, other)
        try:
            logits = PackedText.load(tmp_path / "other").predict(np.array([[1, 0, 2]]))
        except HypersignError:
            refused += 1
        else:
            assert logits.shape[:2] == (1, 3)
    assert refused > times / 3
