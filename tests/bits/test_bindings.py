"""The compiled module refuses arguments that do not fit, whatever they are: it neither crashes nor takes them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hypersign.bits import available_backends
from hypersign.bits.backend import forced, native

BACKENDS = [name for name in available_backends() if name != "numpy"]
pytestmark = pytest.mark.skipif(not BACKENDS, reason="the compiled kernels are not installed")

ONE = (1, 1)
u8, i8, i16, i32, i64, u64, f32, f64 = (
    lambda *shape, dtype=dtype: np.zeros(shape, dtype)  # type: ignore[misc]
    for dtype in (np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint64, np.float32, np.float64)
)


def flips(n: int) -> np.ndarray:
    return np.zeros(n, np.bool_)


def filters(*arguments: Any) -> Any:
    return native().Filters(*arguments)


def on_filters(ternary: bool) -> Callable[..., Any]:
    def convolve(*arguments: Any) -> Any:
        words = u64(2, 70, 9) if ternary else u64(70, 9)
        return native().Filters(words, 3, 3, 60, 1).convolve(*arguments)

    return convolve


def call_image(x: Any, weights: Any, taps: Any, *rest: Any) -> Any:
    return native().image_conv2d(x, weights, taps, *rest)


def function(name: str) -> Callable[..., Any]:
    return lambda *arguments: getattr(native(), name)(*arguments)


def program(name: str) -> Callable[..., Any]:
    """An operation of a program of 30 pixels: its values are an output, a scratch, words, and one channel."""

    def call(*arguments: Any) -> Any:
        found = native().Elementwise(30)
        found.output(f32(30, 4), 4)
        found.scratch(4)
        found.words(u64(30, 1), 4, False)
        found.scratch(1)
        found.affine(1, 0, f32(4), f32(4))
        found.affine(3, found.array(f32(30, 1), 1, 0), f32(1), f32(1))
        getattr(found, name)(*arguments)
        return found.call()

    return call


def program_of_arrays(
    pixels: Any, x: Any, whole: Any, byte: Any, words: Any, repeated: Any, channels: Any, period: Any
) -> Any:
    found = native().Elementwise(pixels)
    to = found.output(f32(30, 4), channels)
    for each in (
        found.array(x, channels, 0),
        found.array_int32(whole, channels),
        found.array_uint8(byte, channels),
        found.array(repeated, channels, period),
    ):
        found.affine(to, each, f32(4), f32(4))
    found.levels(found.words(words, channels, False), to, f32(4), None, u64(1))
    return found.call()


def after_product(*arguments: Any) -> Any:
    found = native().Elementwise(30)
    found.affine(found.output(f32(30, 4), 4), found.product(2, 4), f32(4), f32(4))
    return found.call_after(native().Filters(u64(6, 81), 3, 3, 576, 1), *arguments)


CONV = [u64(2, 5, 6, 1), ONE, ONE, ONE, 0]
LEVELS = [u64(2, 5, 6, 2)]
IMAGE = [u8(2, 5, 6, 3), i8(3, 7, 16, 4), i32(3, 3, 48), ONE, ONE, ONE]

# What each binding is, and arguments that fit.
CALLS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    **{
        f"pack_{name}, {kind}": (
            function(f"pack_{name}"),
            [x, limit, limit if kind == "ternary" else None, u64(2), u64(2 if kind == "ternary" else 1, 3, 2)],
        )
        for name, x, limit in (
            ("float32", f32(3, 70), f32(70)),
            ("float64", f64(3, 70), f64(70)),
            ("int8", i8(3, 70), i16(70)),
            ("uint8", u8(3, 70), i16(70)),
            ("int32", i32(3, 70), i64(70)),
        )
        for kind in ("binary", "ternary")
    },
    "Filters": (filters, [u64(6, 9), 3, 3, 60, 3]),
    "Filters, ternary": (filters, [u64(2, 6, 9), 3, 3, 60, 1]),
    "convolve to sums": (on_filters(False), [*CONV, None, None, None, i32(2, 5, 6, 70)]),
    "convolve to levels": (on_filters(False), [*CONV, i32(70), None, flips(70), u64(2, 5, 6, 2)]),
    "convolve to ternary levels": (on_filters(True), [*CONV, i32(70), i32(70), flips(70), u64(2, 2, 5, 6, 2)]),
    "convolve ternary images": (
        on_filters(True),
        [u64(2, 2, 5, 6, 1), ONE, ONE, ONE, 1, None, None, None, i32(2, 5, 6, 70)],
    ),
    "max_pool2d": (
        function("max_pool2d"),
        [u64(1, 2, 5, 6, 3), u64(1, 2, 2, 3, 3), u64(3), (2, 2), (2, 2), (0, 0)],
    ),
    "max_pool2d, ternary": (
        function("max_pool2d"),
        [u64(2, 2, 5, 6, 3), u64(2, 2, 3, 4, 3), u64(3), (2, 2), (2, 2), (1, 1)],
    ),
    **{
        f"hadamard_{x.dtype}": (
            function(f"hadamard_{x.dtype}"),
            [x, x.copy(), *([0.5] if x.dtype.kind == "f" else []), 1],
        )
        for x in (f32(3, 64), f64(3, 64), i32(3, 64), i16(3, 64))
    },
    "hamming": (function("hamming"), [u64(3, 2), u64(200, 2), i32(3, 200), 1]),
    "hamming_topk": (function("hamming_topk"), [u64(3, 2), u64(200, 2), None, i32(3, 5), i64(3, 5), 1]),
    "hamming_topk of allowed codes": (
        function("hamming_topk"),
        [u64(3, 2), u64(200, 2), ~flips(200), i32(3, 5), i64(3, 5), 1],
    ),
    "hamming_within": (function("hamming_within"), [u64(3, 2), u64(200, 2), flips(200), 10, 1]),
    "level_dots": (function("level_dots"), [i8(3, 70), u8(9, 18), 2, i32(3, 9), 1]),
    "level_topk": (function("level_topk"), [i8(3, 70), f32(3), u8(9, 26), 2, None, True, f32(3, 5), i64(3, 5), 1]),
    "level_topk of allowed rows": (
        function("level_topk"),
        [i8(3, 70), f32(3), u8(9, 26), 2, ~flips(9), True, f32(3, 5), i64(3, 5), 1],
    ),
    "channels_last": (function("channels_last"), [u8(2, 3, 5, 6), u8(2, 5, 6, 3)]),
    "image_conv2d to sums": (call_image, [*IMAGE, i32(2, 5, 6, 40), None, None, None, 40]),
    "image_conv2d to levels": (call_image, [*IMAGE, None, i32(1, 48), u64(1), u64(1, 2, 5, 6, 1), 40]),
    "image_conv2d to ternary levels": (call_image, [*IMAGE, None, i32(2, 48), u64(1), u64(2, 2, 5, 6, 1), 40]),
    "Product8Filters": (lambda *a: native().Product8Filters(*a), [u64(6, 2), 70, None, 70]),
    "Product8Filters, ternary": (lambda *a: native().Product8Filters(*a), [u64(2, 6, 2), 70, f32(6, 3), 32]),
    "sums of Product8Filters": (
        lambda *a: native().Product8Filters(u64(2, 6, 2), 70, None, 70).sums(*a),
        [i8(3, 70), i32(3, 6), 1],
    ),
    "scaled sums of Product8Filters": (
        lambda *a: native().Product8Filters(u64(6, 2), 70, f32(6, 3), 32).scaled(*a),
        [i8(3, 70), f32(3), f32(3, 6), 1],
    ),
    "real_conv2d": (
        function("real_conv2d"),
        [f32(2, 5, 6, 4), f32(6, 3, 3, 2), f32(6), f32(2, 5, 6, 6), ONE, ONE, ONE, 2],
    ),
    **{
        f"Elementwise, {name}": (program(name), arguments)
        for name, arguments in (
            ("affine", [0, 1, f32(4), f32(4)]),
            ("add", [0, 1, 0]),
            ("clip", [0, 1, -1.0, 1.0]),
            ("outer", [0, 3, f32(4)]),
            ("levels", [2, 0, f32(4), None, u64(1)]),
        )
    },
    "Elementwise, arrays": (program_of_arrays, [30, f32(30, 4), i32(30, 4), u8(30, 4), u64(30, 1), f32(6, 4), 4, 6]),
    "Elementwise after a product": (after_product, [u64(2, 3, 5, 9), (3, 5), ONE, ONE, ONE, 0]),
    "real_pool": (function("real_pool"), [f32(2, 5, 6, 4), f32(2, 3, 3, 4), (2, 2), (2, 2), (1, 0), f32(3, 3) + 1]),
    "real_affine, int32": (function("real_affine"), [i32(2, 5, 4), f32(4), f32(4), f32(2, 5, 4)]),
    "real_affine, float32": (function("real_affine"), [f32(2, 5, 4), f32(4), f32(4), f32(2, 5, 4)]),
    "gaussian_rows": (function("gaussian_rows"), [f32(70, 40), 7, 3, 1]),
    "gaussian_sums": (function("gaussian_sums"), [f64(4, 70), f64(140, 2), f32(40), f32(2), 40, 7, 3, True, 1]),
    "weight_moments": (function("weight_moments"), [f32(3, 64), f64(3, 2), f64(3), f64(4)]),
    "round_gradients": (
        function("round_gradients"),
        [f32(2, 30, 40), 7, i8(2, 30, 40), f32(2), i8(2, 30, 40), f32(40), 1],
    ),
    "input_gradient": (
        function("input_gradient"),
        [i8(2, 5, 6, 40), f32(2), u64(1, 40, 9), u64(2, 5, 6, 1), f32(2, 5, 6, 60), (3, 3), ONE, ONE, ONE, 1],
    ),
    "weight_gradient": (
        function("weight_gradient"),
        [i8(2, 5, 6, 40), f32(40), u64(2, 2, 5, 6, 1), u64(40, 9), f32(40, 3, 3, 60), ONE, ONE, ONE, 0, 1],
    ),
    "batch_norm": (
        function("batch_norm"),
        [f32(30, 7), f32(7), f32(7), 0.1, f32(30, 7), f32(7), f32(7), f32(7), 1],
    ),
    "batch_norm_gradient": (
        function("batch_norm_gradient"),
        [f32(30, 7), f32(30, 7), f32(7), f32(7), f32(7), f32(30, 7), f32(7), f32(7), 1],
    ),
    "two_slopes": (function("two_slopes"), [f32(30, 7), f32(7), f32(7), f32(7), f32(7), f32(30, 7), 1]),
    "two_slopes_gradient": (
        function("two_slopes_gradient"),
        [f32(30, 7), f32(30, 7), f32(7), f32(7), f32(7), f32(30, 7), f32(4, 7), 1],
    ),
    "max_pool_floats": (
        function("max_pool_floats"),
        [f32(2, 5, 6, 7), f32(2, 3, 3, 7), u8(2, 3, 3, 7), (2, 2), 1],
    ),
    "max_pool_floats_gradient": (
        function("max_pool_floats_gradient"),
        [f32(2, 3, 3, 7), u8(2, 3, 3, 7), f32(2, 5, 6, 7), (2, 2), 1],
    ),
    "pack_clipped": (function("pack_clipped"), [f32(6, 70), 1.0, u64(6, 2), u64(6, 2), 1]),
    "sequence": (function("sequence"), [[]]),
    "use_backend": (function("use_backend"), ["portable"]),
}

NUMBERS = (0, 1, 2, -1, 7, 64, -(2**31), 2**31 - 1, 2**31, 2**40, 2**62, 2**63, -(2**63), 2**64, 1.5, "x", None)
"""What may come in the place of a number. As a number of threads or of rounds, some are large, and exact."""


def test_arguments_that_fit_are_taken() -> None:
    for name in BACKENDS:
        with forced(name):
            for call, arguments in CALLS.values():
                finish(call(*arguments))


@pytest.mark.parametrize("binding", CALLS)
@pytest.mark.parametrize("name", BACKENDS)
def test_arguments_that_do_not_fit_are_refused(binding: str, name: str) -> None:
    call, arguments = CALLS[binding]
    refused = 0
    with forced(name):
        for changed in changes(arguments, np.random.default_rng(0)):
            try:
                finish(call(*changed))
            except (TypeError, ValueError):
                refused += 1
    assert refused > len(arguments)


def test_an_array_is_never_converted() -> None:
    """What a kernel writes to a converted copy would be lost."""
    with forced(BACKENDS[-1]):
        with pytest.raises(TypeError):
            native().hadamard_float32(f64(3, 64), f32(3, 64), 1.0, 1)
        with pytest.raises(TypeError):
            native().hadamard_float32(f32(3, 64), f32(6, 64)[::2], 1.0, 1)
        constant = f32(3, 64)
        constant.flags.writeable = False
        with pytest.raises(TypeError):
            native().hadamard_float32(f32(3, 64), constant, 1.0, 1)
        native().hadamard_float32(constant, f32(3, 64), 1.0, 1)


def test_overlapping_rows_are_refused() -> None:
    with forced(BACKENDS[-1]):
        rows = f32(4, 64)
        native().hadamard_float32(rows, rows, 1.0, 1)
        with pytest.raises(ValueError, match="fit each other"):
            native().hadamard_float32(rows[:3], rows[1:], 1.0, 1)


def test_a_window_that_does_not_give_the_output_is_refused() -> None:
    with forced(BACKENDS[-1]):
        packed = native().Filters(u64(70, 9), 3, 3, 60, 1)
        with pytest.raises(ValueError, match="a window that slides over the images"):
            packed.convolve(u64(2, 5, 6, 1), (1, 1), (0, 0), (1, 1), 0, None, None, None, i32(2, 5, 6, 70))
        with pytest.raises(ValueError, match="fit each other"):
            packed.convolve(u64(2, 5, 6, 1), (1, 1), (1, 1), (1, 1), 0, None, None, None, i32(2, 5, 6, 71))


def test_calls_take_at_least_one_thread() -> None:
    with forced(BACKENDS[-1]):
        call = native().sequence([])
        for threads in (0, -1):
            with pytest.raises(ValueError, match="threads must be at least 1"):
                call(threads)
        with pytest.raises(ValueError, match="a list of calls"):
            native().sequence([call, None])
        with pytest.raises(ValueError, match="rounds must be at least 0"):
            native().product_peak(-1)


def test_misaligned_arrays_are_refused() -> None:
    with forced(BACKENDS[-1]), pytest.raises(ValueError, match="aligned"):
        native().gaussian_rows(misaligned(f32(3, 40)), 7, 3, 1)


def finish(result: Any) -> None:
    """Runs a call that was bound to its arrays."""
    if isinstance(result, native().Call):
        result(1)
        result(3)


def changes(arguments: list[Any], generator: np.random.Generator) -> Iterator[list[Any]]:
    """The arguments with one changed, in all ways; then with two or three changed at random."""
    ways = [(i, other) for i, argument in enumerate(arguments) for other in others(argument)]
    for i, other in ways:
        yield [*fresh(arguments[:i]), other, *fresh(arguments[i + 1 :])]
    for _ in range(100):
        changed = fresh(arguments)
        for which in generator.choice(len(ways), min(3, len(ways)), replace=False):
            i, other = ways[which]
            changed[i] = other
        yield changed


def fresh(arguments: list[Any]) -> list[Any]:
    return [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]


def others(argument: Any) -> Iterator[Any]:
    """What may come in an argument's place and does not fit, mostly."""
    if isinstance(argument, np.ndarray):
        shape = argument.shape
        for axis in range(len(shape)):
            for size in (0, 1, shape[axis] - 1, shape[axis] + 1, 3 * shape[axis]):
                yield np.zeros((*shape[:axis], size, *shape[axis + 1 :]), argument.dtype)
        yield from (
            argument[None].copy(),
            argument.reshape(-1).copy(),
            argument[0].copy(),
            np.zeros((), argument.dtype),
        )
        yield argument.astype(np.float64 if argument.dtype != np.float64 else np.float32)
        yield argument.astype(np.uint8 if argument.dtype != np.uint8 else np.int8)
        yield argument.astype(argument.dtype.newbyteorder("S") if argument.itemsize > 1 else np.float32)
        yield np.zeros((*shape[:-1], 2 * shape[-1]), argument.dtype)[..., ::2]
        yield misaligned(argument)
        yield from (None, 7, [[1.0]], "text")
    elif isinstance(argument, tuple):
        for value in NUMBERS:
            yield from ((value, argument[1]), (argument[0], value))
        yield from ((1,), (1, 1, 1), 1, None)
    elif isinstance(argument, list):
        yield from ([None], [1], None, [object()])
    elif argument is None:
        yield from (f32(3), i32(70), u64(2, 3, 4, 5, 6), 7, "text")
    else:
        # A large number of rows or of threads is no error: the first is not asked for, the second is bounded.
        yield from (value for value in NUMBERS if value is None or isinstance(value, str) or value < 2**31)
        yield from (2**63, 2**64, -(2**63), 2**62)


def misaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    return raw[: array.nbytes].view(array.dtype).reshape(array.shape)
