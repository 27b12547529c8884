"""Runs in an environment of its own, which has finn-plus: its front end up to XnorPopcountMatMul, on images.

    python finn_outputs.py net.onnx images.npy outputs.npy

Prints the operators that are left. Layers for an FPGA come next; they need Vivado.
"""

import sys

import numpy as np
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
from finn.transformation.streamline import Streamline, absorb
from finn.transformation.streamline.reorder import MakeMaxPoolNHWC
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.bipolar_to_xnor import ConvertBipolarMatMulToXnorPopcount
from qonnx.transformation.change_batchsize import ChangeBatchSize
from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul
from qonnx.util.cleanup import cleanup_model

file, images, outputs = sys.argv[1:]
network = cleanup_model(ModelWrapper(file).transform(ChangeBatchSize(1)))
for step in (
    ConvertQONNXtoFINN(),
    Streamline(),
    LowerConvsToMatMul(),
    MakeMaxPoolNHWC(),
    absorb.AbsorbTransposeIntoMultiThreshold(),
    Streamline(),
    ConvertBipolarMatMulToXnorPopcount(),
    Streamline(),
):
    network = network.transform(step)
print(*(node.op_type for node in network.graph.node))
source, target = network.graph.input[0].name, network.graph.output[0].name
pixels = np.load(images).astype(np.float32)
found = [execute_onnx(network, {source: pixels[i : i + 1]})[target].reshape(1, -1) for i in range(len(pixels))]
np.save(outputs, np.concatenate(found))
