"""The base of `SignHasher`: scikit-learn's transformer, or a plain one if scikit-learn is not installed."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError

__all__ = ["Transformer"]


class PlainTransformer:
    """Has the methods of scikit-learn's transformers, but works without pipelines, `clone` and `set_output`."""

    n_features_in_: int

    def fit(self, X: ArrayLike, y: object = None) -> Any:
        raise NotImplementedError

    def transform(self, X: ArrayLike) -> Any:
        raise NotImplementedError

    def fit_transform(self, X: ArrayLike, y: object = None) -> Any:
        """`fit`, then `transform`."""
        return self.fit(X, y).transform(X)

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_features_in_"):
            raise HypersignError(f"this {type(self).__name__} is not fitted; call fit with vectors first")

    def _validated(self, x: ArrayLike, reset: bool) -> NDArray[Any]:
        """Vectors as an array (n, dimension) of numbers. `reset` sets the dimension; otherwise they must have it."""
        try:
            array = np.asarray(x)
            array = array.astype(np.float64) if array.dtype.kind in "OUS" else array
        except (TypeError, ValueError) as error:
            raise HypersignError(f"vectors must be an array (n, dimension) of numbers; {error}") from error
        if array.ndim != 2 or not array.size:
            raise HypersignError(f"vectors must be of shape (n, dimension), with n >= 1; got shape {array.shape}")
        if reset:
            self.n_features_in_ = array.shape[1]
        elif array.shape[1] != self.n_features_in_:
            raise HypersignError(
                f"X has {array.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        return array


try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    Transformer: Any = PlainTransformer
else:

    class _Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
        """scikit-learn's transformer, with its errors turned into `HypersignError`s."""

        def _check_fitted(self) -> None:
            check_is_fitted(self)

        def _validated(self, x: ArrayLike, reset: bool) -> NDArray[Any]:
            try:
                # The hasher checks block by block that numbers are finite: a file is read once, in constant memory.
                return validate_data(self, x, reset=reset, dtype="numeric", ensure_all_finite=False)
            except ValueError as error:
                why = str(error).replace("\n", " ")
                if why.startswith(
                    "Expected 2D array"
                ):  # scikit-learn's own checks ask for the words "Reshape your data"
                    why = (
                        f"vectors must be of shape (n, dimension); got shape {np.shape(x)}: Reshape your data, one "
                        "vector x to [x]"
                    )
                raise HypersignError(why) from error

        def __sklearn_tags__(self) -> Any:
            tags = super().__sklearn_tags__()
            tags.transformer_tags.preserves_dtype = []  # codes have their own type
            return tags

    Transformer = _Transformer
