"""ggml's matrix products through ctypes, for comparisons: contexts, tensors, and graphs that run on one thread."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

F32, TQ2_0 = 0, 35
"""ggml's numbers of the two types."""

TQ2_0_BLOCK, TQ2_0_BYTES = 256, 66
"""Weights per block of TQ2_0, and its bytes."""

POINTER, LONG = ctypes.c_void_p, ctypes.c_int64


class _Parameters(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("buffer", POINTER), ("no_alloc", ctypes.c_bool))


class _Plan(ctypes.Structure):
    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work_data", POINTER),
        ("threads", ctypes.c_int),
        ("pool", POINTER),
        ("abort", POINTER),
        ("abort_data", POINTER),
        ("use_ref", ctypes.c_bool),
    )


class Ggml:
    """A context of `size` bytes, in which tensors and one graph are made.

    Args:
        folder: the folder with libggml-base.so and libggml-cpu.so.
        size: bytes for all tensors and the graph.
        nodes: the most nodes of the graph.
    """

    def __init__(self, folder: Path, size: int, nodes: int) -> None:
        self._base, self._cpu = (
            ctypes.CDLL(str(folder / f"libggml-{name}.so"), mode=ctypes.RTLD_GLOBAL) for name in ("base", "cpu")
        )
        self._call(self._cpu, "ggml_cpu_init", None)()
        parameters = _Parameters(size, None, False)
        self._context = self._call(self._base, "ggml_init", POINTER, _Parameters)(parameters)
        new_graph = self._call(self._base, "ggml_new_graph_custom", POINTER, POINTER, ctypes.c_size_t, ctypes.c_bool)
        self._graph = new_graph(self._context, nodes, False)
        self._data = self._call(self._base, "ggml_get_data", POINTER, POINTER)

    @staticmethod
    def _call(library: Any, name: str, result: Any, *arguments: Any) -> Any:
        found = getattr(library, name)
        found.restype, found.argtypes = result, arguments
        return found

    def tensor(self, kind: int, columns: int, rows: int) -> int:
        """A new tensor of `rows` rows."""
        new = self._call(self._base, "ggml_new_tensor_2d", POINTER, POINTER, ctypes.c_int, LONG, LONG)
        found: int = new(self._context, kind, columns, rows)
        return found

    def array(self, tensor: int, shape: tuple[int, ...], kind: Any = ctypes.c_float) -> np.ndarray:
        """The memory of a tensor."""
        return np.ctypeslib.as_array(ctypes.cast(self._data(tensor), ctypes.POINTER(kind)), shape)

    def quantize(self, tensor: int, rows: np.ndarray) -> None:
        """Fills a TQ2_0 tensor with float32 rows."""
        quantize = self._call(
            self._base,
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            ctypes.c_int,
            POINTER,
            POINTER,
            LONG,
            LONG,
            LONG,
            POINTER,
        )
        rows = np.ascontiguousarray(rows, np.float32)
        quantize(TQ2_0, rows.ctypes.data, self._data(tensor), 0, *rows.shape, None)

    def product(self, weights: int, inputs: int) -> int:
        """Adds the product of weights and inputs to the graph; returns its tensor."""
        multiply = self._call(self._base, "ggml_mul_mat", POINTER, POINTER, POINTER, POINTER)
        expand = self._call(self._base, "ggml_build_forward_expand", None, POINTER, POINTER)
        found: int = multiply(self._context, weights, inputs)
        expand(self._graph, found)
        return found

    def planned(self) -> Callable[[], None]:
        """A call that computes the graph on one thread."""
        plan = self._call(self._cpu, "ggml_graph_plan", _Plan, POINTER, ctypes.c_int, POINTER)(self._graph, 1, None)
        work = np.empty(plan.work_size + 64, np.uint8)
        plan.work_data = work.ctypes.data
        compute = self._call(self._cpu, "ggml_graph_compute", ctypes.c_int, POINTER, POINTER)

        def run(kept: Any = work) -> None:  # the plan points to it
            compute(self._graph, ctypes.byref(plan))

        return run
