import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypersign.cli import main
from hypersign.hashing import HammingIndex, SignHasher


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    x = (random.standard_normal((500, 32)) + 1).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", x[:12])
    return x, tmp_path / "x.npy", tmp_path / "q.npy", tmp_path / "codes"


def test_hash_and_search(files, capsys):
    x, vectors, queries, codes = map(lambda f: f if isinstance(f, np.ndarray) else str(f), files)
    main(["hash", vectors, "-o", codes, "--bits", "128", "--seed", "3"])
    assert "Codes: " in capsys.readouterr().out
    hasher = SignHasher(128, seed=3).fit(x)
    index = HammingIndex(hasher, hasher.transform(x))
    np.testing.assert_array_equal(HammingIndex.load(codes).codes, index.codes)
    main(["search", codes, queries, "-k", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "Hamming"
    assert found["indices"] == index.search(x[:12], 3).indices.tolist()
    output = str(files[3]) + ".npz"
    main(["search", codes, queries, "-k", "3", "--rescore", vectors, "--factor", "10", "-o", output])
    out = " ".join(capsys.readouterr().out.split())
    assert "Euclidean distance" in out
    assert "2 more queries" in out
    with np.load(output) as saved:
        expected = index.rescore(x[:12], index.search(x[:12], 30), x, 3)
        np.testing.assert_array_equal(saved["indices"], expected.indices)
        np.testing.assert_array_equal(saved["distances"], expected.distances)
    main(["search", codes, codes, "-k", "1"])
    assert "Hamming distance in bits" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("metric", "words"), [("cosine", "cosine distance"), ("inner_product", "inner product")])
def test_codes_of_a_metric(files, capsys, metric, words):
    x, vectors, queries, codes = map(lambda f: f if isinstance(f, np.ndarray) else str(f), files)
    main(["hash", vectors, "-o", codes, "--bits-per-dimension", "2", "--metric", metric])
    name = metric.replace("_", " ")
    assert f"metric {name}, 16 bytes per vector" in " ".join(capsys.readouterr().out.split())
    hasher = SignHasher(bits_per_dimension=2, metric=metric).fit(x)
    expected = HammingIndex(hasher, hasher.codes(x)).search(x[:12], 3)
    main(["search", codes, queries, "-k", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == {"metric": name, "distances": expected.distances.tolist(), "indices": expected.indices.tolist()}
    main(["search", codes, queries, "-k", "3"])
    assert f"estimated {words}" in " ".join(capsys.readouterr().out.split())
    main(["search", codes, queries, "-k", "1", "--rescore", vectors, "--json"])
    found = json.loads(capsys.readouterr().out)
    exact = -(x[:12] @ x.T) if metric == "inner_product" else None
    if exact is not None:
        np.testing.assert_allclose(np.array(found["distances"])[:, 0], exact.min(1), rtol=1e-5)


def test_sign_codes_rescored_by_a_metric(files, capsys):
    x, vectors, queries, codes = map(lambda f: f if isinstance(f, np.ndarray) else str(f), files)
    main(["hash", vectors, "-o", codes])
    capsys.readouterr()
    words = ["search", codes, queries, "-k", "3", "--rescore", vectors, "--factor", "1000", "--metric", "cosine"]
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert found["metric"] == "cosine"
    assert found["indices"] == np.argsort(-unit[:12] @ unit.T, axis=1, kind="stable")[:, :3].tolist()
    main(words)
    out = " ".join(capsys.readouterr().out.split())
    assert "cosine distance" in out
    assert "estimated" not in out


@pytest.mark.parametrize("rescored", [False, True])
def test_every_code_is_compared_on_request(files, capsys, monkeypatch, rescored):
    vectors, queries, codes = map(str, files[1:])
    main(["hash", vectors, "-o", codes, "--bits-per-dimension", "2"])
    asked = []
    search = HammingIndex.search
    monkeypatch.setattr(
        HammingIndex, "search", lambda *given, **named: asked.append(named["exact"]) or search(*given, **named)
    )
    words = ["search", codes, queries, *(["--rescore", vectors] if rescored else [])]
    main(words)
    main([*words, "--every-code"])
    assert asked == [False, True]


def test_packed_bits_are_codes(files, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x = files[0] - 1
    ubinary = np.packbits(x > 0, axis=1)  # as sentence-transformers' quantize_embeddings does
    np.save("u.npy", ubinary)
    np.save("b.npy", (ubinary.astype(np.int16) - 128).astype(np.int8))
    np.savez("q.npz", ubinary[:5])
    np.save("f.npy", x[:5])
    expected = SignHasher(32, rotation=None, center=False).fit_transform(x)
    found = {}
    for name in ("u", "b"):
        main(["hash", f"{name}.npy", "--packed", "--metric", "hamming", "-o", name])
        np.testing.assert_array_equal(HammingIndex.load(name).codes, expected)
    for name in ("q.npz", "f.npy", "u"):
        capsys.readouterr()
        main(["search", "u", name, "-k", "3", "--json"])
        found[name] = json.loads(capsys.readouterr().out)["indices"][:5]
    assert found["q.npz"] == found["f.npy"] == found["u"]


def test_inspect_reads_vectors_of_every_kind(files, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x = files[0]
    np.savez("x.npz", x)
    save_file({"x": x}, "x.safetensors")
    (tmp_path / "folder").mkdir()
    np.save("folder/1.npy", x[:100])
    np.save("folder/2.npy", x[100:])
    means = []
    for name in ("x.npy", "x.npz", "x.safetensors::x", "folder"):
        main(["inspect", name, "--sample", "40", "--bits", "8", "--json"])
        means.append(json.loads(capsys.readouterr().out)["norm_mean"])
    assert means == means[:1] * 4


def test_exact_search_and_allowed_ids(files, capsys):
    x, vectors, queries, codes = files
    main(["hash", str(vectors), "-o", str(codes), "--bits", "64", "--bounds"])
    capsys.readouterr()
    words = ["search", str(codes), str(queries), "-k", "3"]
    main([*words, "--rescore", str(vectors), "--exact", "--json"])
    found = json.loads(capsys.readouterr().out)
    truth = np.argsort(np.square(x[:12, None] - x).sum(2), axis=1, kind="stable")[:, :3]
    assert found["metric"] == "Euclidean"
    assert np.mean(np.array(found["indices"]) == truth) > 0.9
    assert all(3 <= read <= 500 for read in found["read"])
    main([*words, "--rescore", str(vectors), "--exact"])
    assert f"vectors read per query: {np.mean(found['read']):.0f} of 500" in " ".join(capsys.readouterr().out.split())
    allowed = np.arange(0, 500, 7)
    for name, array in (("ids.npy", allowed), ("mask.npy", np.isin(np.arange(500), allowed))):
        np.save(codes.parent / name, array)
        main([*words, "--allowed", str(codes.parent / name), "--json"])
        found = json.loads(capsys.readouterr().out)["indices"]
        assert found == HammingIndex.load(codes).search(x[:12], 3, allowed=allowed).indices.tolist()
        main([*words, "--allowed", str(codes.parent / name), "--rescore", str(vectors), "--factor", "99", "--json"])
        found = json.loads(capsys.readouterr().out)["indices"]
        assert found == allowed[np.argsort(np.square(x[:12, None] - x[allowed]).sum(2), axis=1)[:, :3]].tolist()


def test_a_plan_fits_a_terminal(files, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, vectors, _, codes = files
    main(["hash", str(vectors), "-o", str(codes), "--bits", "1024", "--plan", "--queries", "20"])
    out = capsys.readouterr().out
    assert " / " in out
    assert "…" not in out


def test_plan_predicts_and_measures(files, capsys):
    _, vectors, _, codes = files
    main(["hash", str(vectors), "-o", str(codes), "--bits", "96", "--plan", "--queries", "60", "--json"])
    plan = json.loads(capsys.readouterr().out)
    signs = [row["bits"] for row in plan["rows"] if row["metric"] == "hamming"]
    assert signs == [64, 96, 128, 256, 512, 1024]
    levels = [row["bits_per_dimension"] for row in plan["rows"] if row["metric"] == "euclidean"]
    assert levels == [1, 1.5, 2, 3, 4, 6]
    row = plan["rows"][1]
    assert row["measured_recall"]["8"] == pytest.approx(row["recall"]["8"], abs=0.1)
    assert plan["queries"] == 60
    assert plan["metric"] == "Euclidean"
    main(["hash", str(vectors), "--plan", "--queries", "60"])
    out = capsys.readouterr().out
    assert "effective dimension" in out
    row = plan["rows"][0]
    assert f" {row['recall']['1']:.2f} " in out
    assert f"±{row['standard_error']['1']:.3f} " in out
    assert "metric of the neighbours" in out
    assert "scale vectors to length 1 first" in " ".join(out.split())
    assert "measured" not in out


def test_a_choice_has_every_option_of_its_plan(files, capsys):
    """They can be pasted into a command."""
    _, vectors, _, codes = files
    words = ["hash", str(vectors), "--plan", "--queries", "40", "--recall", ".99", "--rounds", "2"]
    main([*words, "--center", "0.25", "--rotation", "haar", "--seed", "5", "--skip"])
    _, _, out = capsys.readouterr().out.partition("Choice: ")
    chosen, _, _ = out.partition(", then")
    assert chosen.endswith("--rotation haar --rounds 2 --center 0.25 --seed 5 --skip")
    main(["hash", str(vectors), "-o", str(codes), *chosen.split()])
    hasher = HammingIndex.load(codes).hasher
    assert (hasher.rotation, hasher.rounds, hasher.center, hasher.seed) == ("haar", 2, 0.25, 5)


@pytest.mark.parametrize(
    ("per", "bits", "metric"),
    [("4", "32", "euclidean"), ("2", "32", "cosine"), ("1.5", "30", "euclidean"), ("2", "40", None)],
)
def test_a_plan_has_a_row_for_the_codes_that_are_hashed(files, capsys, per, bits, metric):
    """Codes of 8 components at 4 bits take as many bytes as those of all 32 at 1 bit."""
    _, vectors, _, codes = files
    words = ["hash", str(vectors), "-o", str(codes), "--plan", "--queries", "10", "--json"]
    words += ["--bits-per-dimension", per, "--bits", bits]
    main(words if metric is None else [*words, "--metric", metric])
    (row,) = (row for row in json.loads(capsys.readouterr().out)["rows"] if row["measured_recall"])
    assert (row["bits_per_dimension"], row["bits"], row["metric"]) == (float(per), int(bits), metric or "euclidean")


def test_a_plan_by_budget_with_queries_of_ones_own(files, capsys):
    _, vectors, queries, codes = files
    words = ["hash", str(vectors), "--plan", "--queries", str(queries), "--metric", "cosine"]
    main([*words, "--recall", ".9", "--bytes", "20"])
    out = " ".join(capsys.readouterr().out.split())
    assert "over 12 queries" in out
    assert "Metric of the neighbours: cosine" in out
    assert "Choice: --metric cosine --bits-per-dimension" in out
    main([*words, "--recall", "1", "--bytes", "8"])
    assert (
        "No code of at most 8 bytes has a recall of 1. "
        "Best: --bits 64 --center 0.5, then search --rescore FILE --factor 8 --metric cosine: recall@10"
    ) in " ".join(capsys.readouterr().out.split())
    main([*words, "--bits-per-dimension", "2", "--bits", "40", "--output", str(codes), "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    (row,) = (row for row in rows if row["measured_recall"])
    assert (row["bits"], row["bits_per_dimension"], row["metric"]) == (40, 2, "cosine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hash", "x.npy"], "nothing to do: give --output FILE"),
        (["hash", "x.npy", "--packed", "--plan"], "--packed writes bits that are there already"),
        (
            ["hash", "x.npy", "-o", "c", "--packed"],
            "packed bits must be uint8 (ubinary) or int8 (binary); got float32",
        ),
        (
            ["hash", "u.npy", "-o", "c", "--packed", "--bits", "16", "--center", ".5", "--rotation", "haar"],
            "--packed writes bits as they are, which are sign codes; leave --bits, --rotation, --center out",
        ),
        (
            ["hash", "u.npy", "-o", "c", "--packed", "--seed", "1", "--rounds", "2", "--bits-per-dimension", "2"],
            "leave --bits-per-dimension, --rounds, --seed out",
        ),
        (["hash", "u.npy", "-o", "c", "--packed", "--metric", "cosine"], "leave --metric out"),
        (["hash", "x.npy", "-o", "c", "--json"], "--json prints the plan"),
        (["hash", "x.npy", "-o", "c", "--recall", ".9"], "--recall belongs to a plan; add --plan, or leave it out"),
        (
            ["hash", "x.npy", "-o", "c", "--queries", "9", "--neighbours", "5"],
            "--neighbours, --queries belong to a plan; add --plan, or leave them out",
        ),
        (["search", "codes", "q.npy", "--factor", "9"], "--factor is the number of candidates of --rescore FILE"),
        (["hash", "x.npy", "--plan", "--rotation", "none"], "--plan needs a random rotation"),
        (["hash", "x.npy", "--plan", "--queries", "0"], "--queries must be an integer >= 1; got 0"),
        (["hash", "x.npy", "-o", "c", "--center", "2"], "center must be a number >= 0 and <= 1; got 2"),
        (["hash", "missing.npy", "-o", "c"], "could not be read"),
        (["hash", "nan.npy", "-o", "c"], "vectors must be finite; got NaN in row 7, column 3"),
        (["hash", "nan.npy", "-o", "c", "--center", "0"], "vectors must be finite; got NaN in row 7, column 3"),
        (["hash", "zero.npy", "-o", "c", "--center", "0"], "row 9 is zero and so has no direction to hash"),
        (["hash", "empty.npy", "-o", "c"], "holds no vectors"),
        (["hash", "x.npy", "-o", "."], "is a folder"),
        (["hash", "x.npy", "-o", "x.npy"], "would take the place of the vectors"),
        (["hash", "x.npy", "-o", "c", "--bits", "0"], "bits must be an integer from 1 to 1048576; got 0"),
        (["hash", "x.npy", "-o", "c", "--bounds", "--rotation", "none"], "--bounds writes the bounds of rotated"),
        (["search", "codes", "q.npy", "--exact"], "--exact compares all original vectors; give --rescore FILE"),
        (["search", "codes", "q.npy", "--exact", "--rescore", "x.npy"], "codes has no bounds"),
        (
            ["search", "levels", "q.npy", "--exact", "--rescore", "x.npy"],
            "levels holds level codes; exact search needs sign codes: hash without --bits-per-dimension",
        ),
        (
            ["hash", "x.npy", "-o", "c", "--bounds", "--bits-per-dimension", "2"],
            "bounds are for exact search, which needs sign codes: hash without --bits-per-dimension",
        ),
        (["search", "codes", "codes", "--exact", "--rescore", "x.npy"], "--exact needs the queries' vectors"),
        (["search", "codes", "q.npy", "--metric", "cosine"], "--metric sorts the candidates of --rescore FILE"),
        (
            ["search", "codes", "q.npy", "--exact", "--rescore", "x.npy", "--metric", "cosine"],
            "--exact is by Euclidean distance",
        ),
        (
            ["search", "codes", "q.npy", "--exact", "--rescore", "x.npy", "--every-code"],
            "--exact leaves out vectors by their bounds; leave --every-code out",
        ),
        (["search", "codes", "q.npy", "--allowed", "x.npy"], "ids must be integers of 64 bits; got float32"),
        (["search", "x.npy", "q.npy"], "no codes file"),
        (["search", "codes", "q.npy", "-k", "501"], "at most the number of codes in the index, 500; got 501"),
        (["search", "codes", "other"], "differ in seed 0 and 1"),
        (["search", "codes", "codes", "--rescore", "x.npy"], "needs the queries' vectors"),
        (["search", "codes", "q.npy", "-o", "found.txt"], "must name a .npz file"),
        (["search", "codes", "narrow.npy"], "X has 31 features, but SignHasher is expecting 32"),
    ],
)
def test_bad_input_is_one_sentence(files, words, message, capsys, monkeypatch, tmp_path):
    x = files[0]
    monkeypatch.chdir(tmp_path)
    np.save("narrow.npy", x[:, :31])
    np.save("empty.npy", x[:0])
    np.save("u.npy", np.packbits(x > 1, axis=1))
    for name, row, value in (("nan.npy", (7, 3), np.nan), ("zero.npy", 9, 0)):
        bad = x.copy()
        bad[row] = value
        np.save(name, bad)
    for name, seed in (("codes", 0), ("other", 1)):
        hasher = SignHasher(64, seed=seed).fit(x)
        HammingIndex(hasher, hasher.transform(x)).save(name)
    levels = SignHasher(bits_per_dimension=2).fit(x)
    HammingIndex(levels, levels.codes(x)).save("levels")
    before = set(tmp_path.iterdir())
    with pytest.raises(SystemExit, match=r"^1$"):
        main(words)
    error = capsys.readouterr().err
    assert error.startswith(f"hypersign {words[0]}: ")
    assert message in error
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["<f4", ">f8", "?"])
@pytest.mark.parametrize("name", ["x.npy", "x.NPY", "x"])
def test_vectors_of_any_name_type_and_order_give_one_answer(name, kind, tmp_path, capsys):
    """The reference is a file in C order, in the machine's own order of bytes."""
    x = np.random.default_rng(0).integers(0, 2, (60, 24)).astype(kind)
    np.save(tmp_path / "reference.npy", x.astype(x.dtype.newbyteorder("=")))
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.asfortranarray(x))
    answers = []
    for source in (tmp_path / "reference.npy", tmp_path / name):
        main(["hash", str(source), "-o", str(tmp_path / "codes"), "--bits", "64"])
        capsys.readouterr()
        main(["search", str(tmp_path / "codes"), str(source), "--rescore", str(source), "-k", "3", "--json"])
        found = json.loads(capsys.readouterr().out)
        main(["inspect", str(source), "--bits", "64", "--json"])
        measured = json.loads(capsys.readouterr().out) | {"file": ""}
        answers.append((HammingIndex.load(tmp_path / "codes").codes.tolist(), found, measured))
    assert answers[0] == answers[1]
