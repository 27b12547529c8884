"""The choice of the back end: one of the compiled instruction sets, or the NumPy reference."""

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from hypersign._checks import HypersignError

__all__ = ["available_backends", "backend", "forced", "keep_freed_memory"]

_module: ModuleType | None
try:
    _module = importlib.import_module("hypersign._native")
except ImportError:
    _module = None

REFERENCE = "numpy"


def available_backends() -> tuple[str, ...]:
    """The back ends that this machine and this installation have, slowest first.

    "numpy" is the reference. "portable" is compiled C++ without special instructions. "avx2", "avx512" (with
    VPOPCNTDQ, VNNI and VBMI), "neon" and "neondot" (with dot products) use these instruction sets.

    >>> available_backends()[0]
    'numpy'
    """
    return (REFERENCE, *(() if _module is None else _module.backends()))


def backend() -> str:
    """The back end in use: the fastest one, or the one that the environment variable HYPERSIGN_BACKEND names.

    >>> backend() in available_backends()
    True
    """
    return _chosen


def native() -> Any:
    """The compiled module, set to the back end in use; None if the NumPy reference is in use."""
    return None if _chosen == REFERENCE else _module


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Context manager that switches all threads to the back end `name`, for tests and benchmarks.

    Raises:
        HypersignError: this machine or installation has no such back end.

    >>> with forced("numpy"):
    ...     backend()
    'numpy'
    """
    before = _chosen
    _use(name, "the back end")
    try:
        yield
    finally:
        _use(before, "the back end")


def _use(name: str, what: str) -> None:
    global _chosen
    if name not in available_backends():
        raise HypersignError(f"{what} must be one of {', '.join(available_backends())} on this machine; got {name!r}")
    if name != REFERENCE:
        assert _module is not None
        _module.use_backend(name)
    _chosen = name


_chosen = REFERENCE
_wanted = os.environ.get("HYPERSIGN_BACKEND")
if _wanted:
    _use(_wanted, "HYPERSIGN_BACKEND")
elif _module is not None:
    _use(available_backends()[-1], "the back end")
else:
    warnings.warn(
        "HyperSign was installed without its compiled kernels, so bits run on the NumPy reference, far slower; "
        "install a C++17 compiler and reinstall, or set HYPERSIGN_BACKEND=numpy to accept this",
        RuntimeWarning,
        stacklevel=2,
    )


def keep_freed_memory() -> None:
    """Makes this process keep the memory that it frees, for loops that take and free the same large arrays.

    Otherwise the system takes it back and clears new pages each time: up to a tenth of a training step. It calls
    glibc's `mallopt`; with other C libraries, or without compiled kernels, it does nothing.
    """
    if _module is not None:
        _module.keep_freed_memory()
