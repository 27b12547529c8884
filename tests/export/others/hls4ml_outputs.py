"""Runs in an environment of its own, which has hls4ml: C++ of a QONNX file, compiled with g++, on images.

    python hls4ml_outputs.py net.onnx images.npy outputs.npy

The images are (N, channels, height, width).
"""

import sys
import tempfile

import hls4ml
import numpy as np
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

file, images, outputs = sys.argv[1:]
network = cleanup_model(ModelWrapper(file))
config = hls4ml.utils.config_from_onnx_model(network, granularity="model", default_precision="fixed<32,16>")
with tempfile.TemporaryDirectory() as folder:
    made = hls4ml.converters.convert_from_onnx_model(
        network, output_dir=folder, hls_config=config, backend="Vitis", io_type="io_parallel"
    )
    made.compile()
    pixels = np.load(images).transpose(0, 2, 3, 1).astype(np.float32)
    np.save(outputs, made.predict(np.ascontiguousarray(pixels)))
