"""`SignHasher` without scikit-learn: the same codes, and one sentence for what does not fit."""

import subprocess
import sys

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.hashing import SignHasher
from hypersign.hashing.transformer import PlainTransformer

WITHOUT = """
import sys
sys.modules["sklearn"] = None
import numpy as np
from hypersign import SignHasher
from hypersign._checks import HypersignError
from hypersign.hashing import plan

x = np.random.default_rng(0).standard_normal((50, 24))
hasher = SignHasher(100, seed=3)
try:
    hasher.transform(x)
except HypersignError as error:
    assert "is not fitted" in str(error), error
else:
    raise AssertionError
codes = hasher.fit_transform(x)
assert (hasher.transform(x.tolist()) == codes).all()
assert hasher.project(x).shape == (50, 100)
np.save("codes.npy", codes)
assert plan(x, bits=(64,), k=3, sample=5, hasher=SignHasher(48, bits_per_dimension=3)).rows[0].recall[8] > 0
"""


def test_codes_are_those_with_it(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    x = np.random.default_rng(0).standard_normal((50, 24))
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), SignHasher(100, seed=3).fit_transform(x))


class Plain(PlainTransformer):
    def fit(self, X, y=None):
        self._validated(X, reset=True)
        return self

    def transform(self, X):
        self._check_fitted()
        return self._validated(X, reset=False)


@pytest.mark.parametrize("x", [[1.0, 2.0], np.ones((2, 2, 2)), np.ones((0, 4)), [["a", "b"]], [[1], [1, 2]], None])
def test_what_are_no_vectors(x) -> None:
    for transformer in (Plain(), SignHasher(64)):
        with pytest.raises(HypersignError):
            transformer.fit(x)


def test_one_dimension_for_all() -> None:
    x = np.arange(12).reshape(4, 3)
    hasher = Plain().fit(x)
    assert hasher.n_features_in_ == 3
    assert Plain().fit_transform(x) is x  # not copied
    for transformer in (hasher, SignHasher(64).fit(x)):
        with pytest.raises(HypersignError, match=r"X has 2 features, but .* is expecting 3 features"):
            transformer.transform(x[:, :2])
    assert Plain().fit_transform([["1", "2"]]).tolist() == [[1.0, 2.0]]
