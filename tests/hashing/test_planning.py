import tracemalloc

import numpy as np
import pytest

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.hashing import HammingIndex, SignHasher, measure, plan, recall
from hypersign.hashing.prediction import predicted_recall, recall_by_query
from hypersign.hashing.sample import row_keys, sampled
from hypersign.hashing.score_noise import Noise, covariances, kernel_table, orthogonality

from .brute_force import distances, measured_recall


def vectors(n=3000, d=48):
    random = np.random.default_rng(1)
    return random.standard_normal((n, d)) * np.exp(-0.05 * np.arange(d)) + random.standard_normal(d)


@pytest.fixture(scope="module")
def x():
    return vectors()


@pytest.fixture(scope="module")
def planned(x):
    return plan(x, bits=(64, 256), bits_per_dimension=(), sample=150, k=5)


def test_prediction_meets_measurement(x, planned):
    for bits in (64, 256):
        measured = []
        for seed in range(3):
            hasher = SignHasher(bits, rotation="haar", seed=seed).fit(x)
            found = measure(HammingIndex(hasher, hasher.transform(x)), planned)
            assert [row.measured_recall is None for row in found.rows] == [row.bits != bits for row in found.rows]
            (row,) = (row for row in found.rows if row.bits == bits)
            measured.append(list(row.measured_recall.values()))
        np.testing.assert_allclose(list(row.recall.values()), np.mean(measured, 0), atol=0.02)
        assert row.bytes == bits // 8
        assert row.smaller == 48 * 8 / row.bytes
    # without the mean the vectors are nearly alike, and their codes too
    assert all(row.recall_by_center[0][1] < row.recall[1] - 0.02 for row in planned.rows)
    assert all(row.recall_by_center[1] == row.recall for row in planned.rows)
    assert all(
        row.best_center == max((1, 0.5, 0), key=lambda s: sum(row.recall_by_center[s].values()))
        for row in planned.rows
    )


def test_less_centring_where_vectors_have_one_length():
    random = np.random.default_rng(0)
    x = random.standard_normal((2000, 24)) * np.exp(-0.05 * np.arange(24)) + random.standard_normal(24)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    row = plan(x, bits_per_dimension=(), bits=(512,), sample=100, k=5).rows[0]
    assert row.best_center == 0.5
    for share, expected in row.recall_by_center.items():
        planned = plan(x, bits_per_dimension=(), bits=(512,), sample=100, k=5, center=share)
        assert planned.rows[0].recall == expected
        measured = []
        for seed in range(2):
            hasher = SignHasher(512, center=share, seed=seed).fit(x)
            found = measure(HammingIndex(hasher, hasher.transform(x)), planned)
            measured.append(list(found.rows[0].measured_recall.values()))
        np.testing.assert_allclose(list(expected.values()), np.mean(measured, 0), atol=0.03)


def test_neighbours_in_clusters_share_less_noise_under_a_rotation():
    random = np.random.default_rng(1)
    x = random.standard_normal((20, 32))[random.integers(0, 20, 2000)] + 0.5 * random.standard_normal((2000, 32))
    planned = plan(x, bits_per_dimension=(), bits=(64,), factors=(1, 2), sample=100, k=5)
    measured = []
    for seed in range(4):
        hasher = SignHasher(64, seed=seed).fit(x)
        found = measure(HammingIndex(hasher, hasher.transform(x)), planned)
        measured.append(list(found.rows[0].measured_recall.values()))
    # .03 and .04 above, if the covariance of independent rows counted
    np.testing.assert_allclose(list(planned.rows[0].recall.values()), np.mean(measured, 0), atol=0.02)


@pytest.mark.parametrize("m", [1, 8, 16])
def test_covariance_of_distances_over_rotations(m):
    n, draws = 16, 10_000
    random = np.random.default_rng(0)
    q = np.eye(n)[0]
    x = np.concatenate([[[1, 0.6], [1, -0.5], [0.3, 1]], np.zeros((3, n - 2))], axis=1)
    x[:, 2] = 0.5, 0.9, -0.7
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows = np.linalg.qr(random.standard_normal((draws, n, n)))[0][:, :, :m]  # orthonormal columns, uniform
    rows = rows * random.choice([-1, 1], (draws, 1, m))
    differ = (np.einsum("d,bdm->bm", q, rows)[:, None] < 0) != (np.einsum("vd,bdm->bvm", x, rows) < 0)
    distances = differ.sum(2)
    covariance, quadratic = covariances(x @ q, x @ x.T)
    predicted = m * (covariance - orthogonality(m, n) * quadratic)
    off = ~np.eye(3, dtype=bool)
    deviations = np.sqrt(np.outer(distances.var(0), distances.var(0)))
    error = deviations / np.sqrt(draws)
    # what degree 4 and above leave out is of the order of 3/n^2 a pair of rows
    assert (np.abs(np.cov(distances.T) - predicted) < 4 * error + 0.02 * deviations * (m > 1))[off].all()
    if m == n:
        assert (np.abs(np.cov(distances.T) - m * covariance) > 8 * error)[off].any()


def test_the_standard_error_is_the_spread_over_draws_of_queries(x):
    rows = [
        plan(x[:400], bits_per_dimension=(), bits=(64,), factors=(1, 100), k=5, sample=12, seed=seed).rows[0]
        for seed in range(20)
    ]
    spread = np.std([row.recall[1] for row in rows], ddof=1)
    # the spread of 20 draws has a relative standard error of 16 %
    assert np.mean([row.standard_error[1] for row in rows]) == pytest.approx(spread, rel=0.45)
    assert rows[0].standard_error[100] == 0  # every vector is a candidate
    assert np.isnan(
        plan(x[:100], bits_per_dimension=(), bits=(64,), factors=(1,), k=5, sample=1).rows[0].standard_error[1]
    )


def test_lengths_decide_euclidean_recall_and_not_angular_recall():
    """Codes know directions: a vector's length moves its Euclidean neighbours and not its code."""
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 32)) * np.exp(-0.1 * np.arange(32))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    long = unit * np.exp(0.7 * random.standard_normal((600, 1)))
    by_length, by_angle = (
        plan(y, bits_per_dimension=(), bits=(256,), factors=(1,), center=False, sample=30) for y in (long, unit)
    )
    assert by_length.metric == by_angle.metric == "Euclidean"
    assert by_length.rows[0].recall[1] < by_angle.rows[0].recall[1] - 0.2


def test_true_neighbours_are_a_sort_of_all_distances(x, planned):
    squares = ((x[planned.query_rows][:, None] - x[:3000]) ** 2).sum(2)
    squares[np.arange(150), planned.query_rows] = np.inf
    np.testing.assert_array_equal(planned.truth[:, :5], np.argsort(squares, axis=1)[:, :5])
    assert (planned.truth[:, 5:] == -1).all()


def test_geometry_of_the_vectors(x, planned):
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
    assert planned.effective_dimension == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-6)
    centred = x - x.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(centred[planned.query_rows] @ centred.T, -1, 1)))
    angles[np.arange(150), planned.query_rows] = np.nan
    assert planned.all.mean == pytest.approx(np.nanmean(angles), abs=0.05)
    assert planned.all.std == pytest.approx(np.nanstd(angles), abs=0.05)
    nearest = np.take_along_axis(angles, planned.truth[:, :5], 1)
    assert planned.nearest.mean == pytest.approx(nearest.mean(), abs=1e-6)
    angle = planned.code_angle
    assert angle["predicted"] == pytest.approx(np.degrees(theory.sign_angle(64)))
    assert angle["rotated"] == pytest.approx(angle["predicted"], abs=0.3)
    for name, y in (("plain", x), ("centred", x - x.mean(0))):
        cosines = np.abs(y).sum(1) / np.sqrt(48 * (y**2).sum(1))
        assert angle[name] == pytest.approx(np.degrees(np.arccos(cosines)).mean(), abs=1e-6)


def test_own_queries_and_edges(x):
    found = plan(x[:100], queries=x[100:120], bits_per_dimension=(), bits=(64,), factors=(1, 10), k=10)
    assert found.query_rows is None
    # among all codes everything is found
    assert found.rows[0].recall[10] == 1
    hasher = SignHasher(64).fit(x[:100])
    assert measure(HammingIndex(hasher, hasher.transform(x[:100])), found).rows[0].measured_recall[10] == 1
    assert "truth" not in found.as_dict()
    assert found.as_dict()["queries"] == 20
    with pytest.raises(HypersignError, match="plan is for 100 vectors of dimension 48; the index has 90"):
        measure(HammingIndex(hasher, hasher.transform(x[:90])), found)
    other = SignHasher(65).fit(x[:100])
    with pytest.raises(HypersignError, match="no row for the index's 65 bits"):
        measure(HammingIndex(other, other.transform(x[:100])), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": ()}, "bits must name at least one"),
        ({"bits": (0,)}, "bits must be an integer from 1 to 1048576"),
        ({"factors": (0,)}, "factors must be an integer from 1 to 1048576"),
        ({"rotation": "none"}, "rotation must be one of"),
        ({"k": 0}, "k must be an integer >= 1"),
        ({"k": 49}, "49 neighbours of a query need at least 51 vectors; got 50"),
        ({"queries": np.ones((3, 2))}, r"queries must be of shape \(q, 48\)"),
    ],
)
def test_bad_plans(x, options, message):
    with pytest.raises(HypersignError, match=message):
        plan(x[:50], **options)


def test_vectors_without_angles(x):
    y = x[:50].copy()
    y[7] = np.nan
    with pytest.raises(HypersignError, match="NaN in row 7, column 0"):
        plan(y)
    y[7] = 0
    with pytest.raises(HypersignError, match="zero"):
        plan(y, center=False)
    row = plan(y).rows[0]  # a mean to subtract gives it a direction
    assert list(row.recall_by_center) == [1, 0.5]


@pytest.mark.parametrize(("copies", "k"), [(20, 5), (20, 10), (3, 10), (7, 7)])
def test_copies_have_equal_codes(copies, k):
    """Equal vectors are found together; any vector no farther than the k-th is a hit."""
    distinct = np.random.default_rng(0).standard_normal((300, 32))
    x = np.repeat(distinct, copies, axis=0)[np.random.default_rng(1).permutation(300 * copies)]
    found = plan(x, bits_per_dimension=(), bits=(256,), factors=(1, 4), k=k, sample=60)
    measured = []
    for seed in range(4):  # one rotation has a standard deviation of .03
        hasher = SignHasher(256, seed=seed).fit(x)
        row = measure(HammingIndex(hasher, hasher.transform(x)), found).rows[0]
        measured.append(list(row.measured_recall.values()))
    np.testing.assert_allclose(list(row.recall.values()), np.mean(measured, 0), atol=0.03)
    assert copies <= k or row.recall[1] == pytest.approx(1)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.float64])
def test_neighbours_far_from_the_origin(kind):
    """float64 rounds these integers to multiples of 256; squares of large floats lose what sets them apart."""
    centre = 2**40 if kind == np.float64 else 2**60
    spread = np.random.default_rng(0).integers(-(2**15), 2**15, (80, 8))
    x = spread.astype(kind) + kind(centre)
    planned = plan(x, k=5, bits_per_dimension=(), bits=[64], factors=[1], sample=20)
    for row, found in zip(planned.query_rows, planned.truth, strict=True):
        squares = [sum((a - b) ** 2 for a, b in zip(v, spread[row].tolist(), strict=True)) for v in spread.tolist()]
        nearest = sorted((i for i in range(80) if i != row), key=lambda i: (squares[i], i))[:5]
        assert found[:5].tolist() == nearest


@pytest.mark.parametrize("n", [3, 4, 8])
def test_orthogonal_rows_by_a_quadratic_form(n):
    """f(u) = u_1^2 - u_2^2 has degree 2 alone, for which the covariance of two rows at right angles is exact."""
    draws = 300_000
    random = np.random.default_rng(n)
    u = random.standard_normal((draws, n))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = random.standard_normal((draws, n))
    v -= np.einsum("bd,bd->b", u, v)[:, None] * u
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    f, g = (rows[:, 0] ** 2 - rows[:, 1] ** 2 for rows in (u, v))
    second = n * (u * f[:, None]).T @ u / draws  # of a normal vector, whose length does not depend on its direction
    quadratic = (second**2).sum() / 2
    assert quadratic == pytest.approx(4 / (n + 2) ** 2, rel=0.03)
    measured = np.mean(f * g)
    error = np.std(f * g) / draws**0.5
    assert measured == pytest.approx(-orthogonality(2, n) * quadratic, abs=4 * error)
    assert orthogonality(5, n) == pytest.approx(4 * orthogonality(2, n))
    assert orthogonality(1, n) == 0


def test_neighbours_share_noise(monkeypatch):
    """Vectors in a cluster are found far more often than independent distances would find them."""
    random = np.random.default_rng(0)
    d, n, k, m = 16, 400, 10, 64
    queries = random.standard_normal((6, d))
    vectors = np.concatenate([3 * random.standard_normal(d) + random.standard_normal((n // 6, d)) for _ in range(6)])
    q, x = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, vectors))
    nearest = np.argsort(-q @ x.T, axis=1)[:, :k]
    found = []
    for seed in range(150):
        rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((64, 64)))[0][:d]
        distances = ((q @ rotation < 0)[:, None] != (x @ rotation < 0)).sum(2)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        found.append(np.mean([np.isin(a, b).mean() for a, b in zip(order, nearest, strict=True)]))
    options = {"queries": queries, "k": k, "metric": "cosine"}
    (predicted,) = predicted_recall(vectors, [SignHasher(m, center=False)], **options)
    monkeypatch.setattr(Noise, "correlation", lambda self, noise_sample: 0 * noise_sample.between)
    (alone,) = predicted_recall(vectors, [SignHasher(m, center=False)], **options)
    assert predicted.recall[1] == pytest.approx(np.mean(found), abs=0.03)
    assert alone.recall[1] < predicted.recall[1] - 0.05


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("bits", [1, 1.5, 2, 4])
def test_level_codes_of_every_metric(metric, bits):
    """Beside an index: hits are vectors no farther than the k-th, by brute force."""
    random = np.random.default_rng(0)
    x = (random.standard_normal((1200, 40)) + 0.5) * np.exp(-0.04 * np.arange(40))
    q = (random.standard_normal((100, 40)) + 0.5) * np.exp(-0.04 * np.arange(40))
    options = {"bits_per_dimension": bits, "metric": metric}
    (predicted,) = predicted_recall(x, [SignHasher(**options)], queries=q, factors=(1, 4), metric=metric)
    np.testing.assert_allclose(list(predicted.recall.values()), measured_recall(options, x, q, 3), atol=0.025)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("bits", [1, 2])
def test_rescoring_by_the_metric_of_the_plan_delivers_its_recall(metric, bits):
    """Sign codes (1 bit) know no metric, so rescoring has to be given that of the plan."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1500, 48)) * np.exp(0.7 * random.standard_normal((1500, 1)))
    q = random.standard_normal((40, 48))
    options = {"center": False, "factors": (1, 8), "metric": metric}
    if bits == 1:
        hasher = SignHasher(256, center=False)
        planned = plan(x, queries=q, bits=(256,), bits_per_dimension=(), **options)
    else:
        hasher = SignHasher(bits_per_dimension=2, metric=metric, center=False)
        planned = plan(x, queries=q, bits=(64,), bits_per_dimension=(2,), **options)
    index = HammingIndex(hasher.fit(x), hasher.codes(x))
    (row,) = (row for row in measure(index, planned).rows if row.measured_recall)
    exact = distances(metric, x, q)
    found = index.rescore(q, index.search(q, 80), x, 10, metric=metric)
    assert recall(found.indices, np.argsort(exact, axis=1), 10) == pytest.approx(row.measured_recall[8])
    assert row.recall[8] == pytest.approx(row.measured_recall[8], abs=0.04)


@pytest.mark.parametrize("bits", [1, 1.5, 2, 3, 4, 6])
def test_kernel_of_levels_is_the_mean_product_of_codes(bits):
    """E c(x) c(y)/k^2 of normals of one correlation, by Monte Carlo; of signs by the arcsine law."""
    from hypersign.bits.levels import LEVELS
    from hypersign.hashing.levels import UNIT

    t, values, slopes = kernel_table(bits)
    random = np.random.default_rng(0)
    x, z = random.standard_normal((2, 400_000))
    levels = LEVELS[bits].astype(float)
    limits = (levels[1:] + levels[:-1]) / 2 * UNIT[bits]
    for rho in (0.3, 0.9):
        y = rho * x + np.sqrt(1 - rho**2) * z
        a, b = (levels[np.searchsorted(limits, v)] for v in (x, y))
        scale = (a * x).mean() ** 2
        expected = (a * b).mean() / scale
        assert np.interp(np.arcsin(rho), t, values) == pytest.approx(expected, rel=0.02)
        step = (np.interp(np.arcsin(rho + 0.01), t, values) - np.interp(np.arcsin(rho - 0.01), t, values)) / 0.02
        assert np.interp(np.arcsin(rho), t, slopes) == pytest.approx(step, rel=0.02)
    if bits == 1:
        np.testing.assert_allclose(values, t, atol=1e-6)


def test_equal_rows_have_equal_keys():
    x = np.array([[0.0, 1.0, 2.0], [-0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]], np.float32)
    first, *others = row_keys(x).tolist()
    assert [key == first for key in others] == [True, False, True]


@pytest.mark.parametrize("copies", [1, 5])
def test_memory_does_not_grow_with_the_queries(copies):
    random = np.random.default_rng(0)
    x = np.repeat(random.standard_normal((1500 // copies, 24)), copies, axis=0)

    def peak(queries):
        sample, known = sampled(x, random.standard_normal((queries, 24)), 10, "euclidean", 1, 0), {}
        recall_by_query(sample, SignHasher(64), (1,), known)
        tracemalloc.start()
        try:
            recall_by_query(sample, SignHasher(64), (4,), known)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(256) < 1.2 * peak(64)


def test_ties_of_different_vectors_are_hits():
    """Rows of zeros and ones have few distances; with all bits right, everything at the k-th distance is a hit."""
    x = np.random.default_rng(0).integers(0, 2, (400, 16)).astype(float)
    q = np.random.default_rng(1).integers(0, 2, (40, 16)).astype(float)
    sample = sampled(x, q, 5, "euclidean", 1, 0)
    squares = np.square(q[:, None] - x).sum(2)
    kth = np.sort(squares, axis=1)[:, 4]
    assert (sample.true.sum(1) == np.minimum((squares <= kth[:, None]).sum(1), sample.true.shape[1])).all()
    assert (sample.true.sum(1) > 5).any()
    hasher = SignHasher(bits_per_dimension=4).fit(x)
    found = HammingIndex(hasher, hasher.codes(x)).search(q, 5).indices
    measured = (np.take_along_axis(squares, found, 1) <= kth[:, None]).mean()
    (predicted,) = recall_by_query(sample, SignHasher(bits_per_dimension=4), (1,), {}).values()
    assert predicted.mean() == pytest.approx(measured, abs=0.03)


def test_a_choice_by_budget(x):
    found = plan(x, bits=(64,), bits_per_dimension=(1, 4), bytes=24, sample=40, k=5)
    assert {row.bytes for row in found.rows} == {8, 14, 24, 32}
    choice = found.choose(0.5, 24)
    assert choice.enough
    assert choice.row.bytes <= 24
    assert choice.row.recall[choice.factor] >= 0.5
    cheaper = [row for row in found.rows if row.bytes < choice.row.bytes]
    assert all(row.recall[choice.factor] < 0.5 for row in cheaper)
    best = found.choose(1.0, 8)
    assert (best.enough, best.row.bytes, best.factor) == (False, 8, 8)
    assert found.choose(0.5).row.bytes == min(row.bytes for row in found.rows if row.recall[8] >= 0.5)
    with pytest.raises(HypersignError, match="the plan has no code of at most 4 bytes; its shortest has 8"):
        found.choose(0.5, 4)


def test_a_choice_takes_the_best_share_of_the_mean():
    """Vectors of one length on one side: long sign codes lose recall by the whole mean."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1000, 24)) * np.exp(-0.05 * np.arange(24)) + random.standard_normal(24)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = plan(x, bits=(256, 512), bits_per_dimension=(), sample=40, k=5)
    options = [
        (row.bytes, factor, center, expected)
        for row in found.rows
        for center, by_factor in row.recall_by_center.items()
        for factor, expected in by_factor.items()
    ]
    for least, budget in ((0.5, 64), (0.9, None), (0.95, 64), (1.0, 32)):
        choice = found.choose(least, budget)
        fits = [option for option in options if budget is None or option[0] <= budget]
        enough = [option for option in fits if option[3] >= least]
        size, cost = (0, 1) if budget is None else (1, 0)
        (*_, best) = sorted(fits, key=lambda o: o[3])
        if enough:
            best = sorted(enough, key=lambda o: (o[size], o[cost], -o[3]))[0]
        assert (choice.row.bytes, choice.factor, choice.center, choice.recall) == best
        assert choice.enough == bool(enough)
    assert found.choose(0.5, 64).center < 1


def test_candidates_that_are_no_multiple_of_k():
    random = np.random.default_rng(0)
    x, q = random.standard_normal((1500, 32)), random.standard_normal((100, 32))
    hasher = SignHasher(bits_per_dimension=1, metric="euclidean")
    (found,) = predicted_recall(x, [hasher], queries=q, factors=(1, 1.5, 2, 10 / 3), k=6)
    recall = list(found.recall.values())
    assert list(found.recall) == [1, 1.5, 2, 10 / 3]
    assert recall == sorted(recall)
    index = HammingIndex(hasher.fit(x), hasher.codes(x))
    truth = np.argsort(np.square(q[:, None] - x).sum(2), axis=1)[:, :6]
    nine, twenty = (
        np.mean([np.isin(t, row).mean() for t, row in zip(truth, index.search(q, count).indices, strict=True)])
        for count in (9, 20)
    )
    assert found.recall[1.5] == pytest.approx(nine, abs=0.04)
    assert found.recall[10 / 3] == pytest.approx(twenty, abs=0.04)
    with pytest.raises(HypersignError, match=r"whole numbers of candidates; got 1.25 for k = 6: 8 candidates"):
        predicted_recall(x, [hasher], queries=q, factors=(1.25,), k=6)
