"""The float32 network that a packed network replaces, in the runtimes that people deploy."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypersign.packed import PackedModel
from hypersign.packing.dense import DenseNetwork, has_dense_form

__all__ = ["peers"]

Call = Callable[[], Any]


def peers(model: PackedModel, batch: int, *, threads: int = 1, seed: int = 0) -> dict[str, Call]:
    """Returns calls that run the dense network of a packed one on random images, by runtime and precision.

    "torch float32" (eager, channels-last) is always there. ONNX Runtime, if installed, adds "onnxruntime float32" and
    "onnxruntime int8". OpenVINO, if installed, adds "openvino float32", "openvino bfloat16" if the processor supports
    it, and "openvino int8" if ONNX Runtime is installed too. int8 is ONNX Runtime's static quantization with one
    scale per filter, calibrated on the batch; OpenVINO reads the same file. Batch norm is folded into the products,
    except in torch. Each call returns its logits.

    OpenVINO changes how a process handles signals: a later Ctrl-C can end the process with a segmentation fault. Call
    this function in a separate process, as `hypersign bench` does.

    A network of rotations and transforms replaces no dense network, so there are no calls for it.

    Args:
        model: packed network; the dense network has the same shape and random weights.
        batch: number of images.
        threads: number of threads of each runtime; torch's number is set for the whole process.
        seed: seed of weights and images.
    """
    if not has_dense_form(model.graph):
        return {}
    torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DenseNetwork(model.graph, model.values)
        images = torch.randn(batch, *model.shape)
    calls = {"torch float32": _torch(network, images)}
    if importlib.util.find_spec("onnx") is None:
        return calls
    numpy_images = images.numpy()
    dense = onnx_model(network, images)
    has_onnxruntime = importlib.util.find_spec("onnxruntime") is not None
    int8 = _quantized(dense, numpy_images) if has_onnxruntime else None
    if has_onnxruntime:
        assert int8 is not None
        calls["onnxruntime float32"] = _onnxruntime(dense, numpy_images, threads)
        calls["onnxruntime int8"] = _onnxruntime(int8, numpy_images, threads)
    if importlib.util.find_spec("openvino") is not None:
        calls["openvino float32"] = _openvino(dense, numpy_images, threads, "f32")
        if "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            calls["openvino bfloat16"] = _openvino(dense, numpy_images, threads, "bf16")
        if int8 is not None:
            calls["openvino int8"] = _openvino(int8, numpy_images, threads, "f32")
    return calls


def _torch(network: DenseNetwork, images: torch.Tensor) -> Call:
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return network(images).numpy()

    return call


def onnx_model(network: DenseNetwork, images: torch.Tensor) -> bytes:
    """Returns a dense network as the bytes of an ONNX file for batches like `images`, with batch norms folded in."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    tensors: list[Any] = []
    names = {"input": "input"}

    def tensor(name: str, value: torch.Tensor) -> str:
        tensors.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def node(op: str, inputs: list[str], name: str, **options: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name=name, **options))
        return name

    for step in network.nodes:
        key = network.key(step)
        inputs = [names[name] for name in step.inputs]
        norm = network.layers[f"{key}_norm"] if network.clipped(step) else None
        if key in network.layers:
            layer: Any = network.layers[key]
            product: Any = layer[1] if isinstance(layer, nn.Sequential) else layer
            weight, bias = _folded(product, norm)
            parameters = [tensor(f"{key}.weight", weight), tensor(f"{key}.bias", bias)]
            if isinstance(product, nn.Linear):
                flat = node("Flatten", inputs, f"{key}.flat")
                name = node("Gemm", [flat, *parameters], f"{key}.product", transB=1)
            else:
                name = node("Conv", inputs + parameters, f"{key}.product", **_window(product))
        elif step.op in ("max_pool2d", "avg_pool2d"):
            options: dict[str, Any] = {
                "kernel_shape": step.options["size"],
                "strides": step.options["stride"],
                "pads": step.options["padding"] * 2,
                "ceil_mode": int(step.options["ceil_mode"]),
            }
            if step.op == "avg_pool2d":
                options["count_include_pad"] = int(step.options["count_include_pad"])
            name = node("MaxPool" if step.op == "max_pool2d" else "AveragePool", inputs, f"{key}.pool", **options)
        elif step.op == "add":
            name = node("Add", inputs, f"{key}.sum")
        elif step.op == "concat":
            name = node("Concat", inputs, f"{key}.concat", axis=1)
        else:
            name = inputs[0]
        if network.clipped(step):
            ends = [tensor(f"{key}.{end}", torch.tensor(float(end))) for end in (-1, 1)]
            name = node("Clip", [name, *ends], f"{key}.clip")
        names[step.name] = name
    node("Flatten", [names[network.nodes[-1].name]], "logits")
    classes = network.channels[network.nodes[-1].name]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(images.shape))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [len(images), classes])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(onnx.shape_inference.infer_shapes(made).SerializeToString())


def _folded(product: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weight and bias of a product after folding the next batch norm into it."""
    weight = product.weight
    if norm is None:
        return weight, torch.zeros(len(weight))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), norm.bias - norm.running_mean * scale


def _window(conv: nn.Conv2d) -> dict[str, Any]:
    return {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": [int(pad) for pad in conv.padding] * 2,
        "dilations": list(conv.dilation),
        "group": conv.groups,
    }


def _quantized(dense: bytes, images: Any) -> bytes:
    """Quantizes the network of an ONNX file to 8 bits, calibrated on `images`."""
    import logging

    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"input": images}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    root = logging.getLogger()
    before, handlers = root.level, list(root.handlers)
    root.setLevel(logging.ERROR)  # hide the advice to prepare the network, which is prepared already
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                onnx.load_from_string(dense),
                path,
                Reader(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,  # without VNNI, sums of pairs of 8-bit products overflow
            )
            return path.read_bytes()
    finally:
        root.setLevel(before)
        root.handlers[:] = handlers


def _onnxruntime(model: bytes, images: Any, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": images})[0]


def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(model: bytes, images: Any, threads: int, precision: str) -> Call:
    import openvino

    core = _openvino_core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = core.compile_model(core.read_model(model, b""), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))

    def call() -> Any:
        request.infer()
        return request.get_output_tensor().data

    return call
