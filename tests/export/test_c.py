"""The C file on this machine and on an emulated Cortex-M4: its outputs are the packed network's, bit for bit."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import HypersignError, packing
from hypersign.export import c_source, write_c
from hypersign.export.c_code import WRITERS
from hypersign.layers import QuantLinear
from hypersign.packed import PackedModel
from hypersign.packed.operations import OPERATIONS
from hypersign.quantizers import ImageSign, Sign

from ..small_networks import NETWORKS, WITHOUT_PRODUCTS, images_for, packed

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C compiler is installed")
STRICT = (
    "-std=c99",
    "-pedantic",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=undefined,address",
    "-fno-sanitize-recover",
)

ARM = "arm-none-eabi-gcc"
needs_cortex = pytest.mark.skipif(
    not (shutil.which(ARM) and shutil.which("qemu-system-arm")),
    reason="arm-none-eabi-gcc or qemu-system-arm is missing",
)
CORTEX_M4 = Path(__file__).parent / "cortex_m4"


def outputs(model: PackedModel, images: np.ndarray, folder: Path, compiler: str) -> np.ndarray:
    """What the compiled file prints for images."""
    write_c(model, folder / "network.c")
    words = [compiler, *STRICT, "-O1", "-Dnetwork_MAIN", "-o", folder / "network", folder / "network.c"]
    subprocess.run(words, check=True)
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).tobytes()
    result = subprocess.run([folder / "network"], input=last, capture_output=True, check=True)
    return np.loadtxt(result.stdout.decode().splitlines(), np.float32, ndmin=2)


def test_every_operation_is_written() -> None:
    assert set(OPERATIONS) - set(WRITERS) == {
        "recurrent", "zero_pad2d", "activation", "softmax", "layer_norm", "group_norm", "multiply", "matmul",
        "attention", "rearrange", "slice", "resize2d", "constant",
    }  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name", [*NETWORKS, *WITHOUT_PRODUCTS])
def test_outputs_are_equal(name: str, tmp_path: Path) -> None:
    model = packed(name, tmp_path)
    images = images_for(model, 20)
    assert np.array_equal(outputs(model, images, tmp_path, COMPILERS[0]), model.predict(images))


@needs_compiler
def test_vectors_are_floats(tmp_path: Path) -> None:
    network = nn.Sequential(QuantLinear(33, 4, input_quantizer=Sign(), weight_quantizer=Sign())).eval()
    packing.pack(network, tmp_path / "net.hypersign", (33, 1, 1))
    model = PackedModel.load(tmp_path / "net.hypersign")
    vectors = np.random.default_rng(0).standard_normal((9, 33, 1, 1)).astype(np.float32)
    assert "const float *image" in c_source(model)
    assert np.array_equal(outputs(model, vectors, tmp_path, COMPILERS[0]), model.predict(vectors))


def test_equal_networks_give_equal_files_and_names_are_c_names(tmp_path: Path) -> None:
    model = PackedModel.pretrained("digits")
    write_c(model, tmp_path / "8-bit.c")
    text = (tmp_path / "8-bit.c").read_text()
    assert text == c_source(model, "n8_bit")
    assert "int n8_bit_class(const uint8_t *image)" in text
    assert model.sha256 in text
    with pytest.raises(HypersignError, match="must be a C name"):
        write_c(model, tmp_path / "net.c", name="8bit")


def test_class_names_stay_in_their_comment(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), QuantLinear(64, 2, input_quantizer=Sign(), weight_quantizer=Sign())).eval()
    classes = ["*/ int main", "snow\nman \N{SNOWMAN}"]
    packing.pack(network, tmp_path / "net.hypersign", (1, 8, 8), pixel_range=(-1.0, 1.0), classes=classes)
    text = c_source(PackedModel.load(tmp_path / "net.hypersign"))
    assert text.isascii()
    assert text.index("*/") > text.index("snow")


@needs_cortex
def test_a_cortex_m4_computes_the_same(tmp_path: Path) -> None:
    """The digits network on 1,000 images (100 in the quick suite): 28 kB of flash and 1 kB of RAM."""
    model = PackedModel.pretrained("digits")
    images = images_for(model, 1000 if os.environ.get("HYPERSIGN_LONG") else 100)
    write_c(model, tmp_path / "network.c")
    rows = ["{" + ",".join(map(str, row)) + "}" for row in images.transpose(0, 2, 3, 1).reshape(len(images), -1)]
    head = f"#define IMAGES {len(images)}\n#define OUTPUTS {model.outputs}\n"
    (tmp_path / "images.h").write_text(f"{head}static const uint8_t images[][64] = {{{','.join(rows)}}};\n")
    flags = ["-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run([ARM, *flags, "-c", tmp_path / "network.c", "-o", tmp_path / "network.o"], check=True)
    size = subprocess.run(["arm-none-eabi-size", tmp_path / "network.o"], capture_output=True, text=True, check=True)
    flash, data, ram = map(int, size.stdout.splitlines()[1].split()[:3])
    assert (data, ram) == (0, 1024)
    assert flash < 30_000
    sources = [CORTEX_M4 / "start.c", CORTEX_M4 / "main.c"]
    script = ["-nostartfiles", "--specs=rdimon.specs", "-T", CORTEX_M4 / "layout.ld"]
    subprocess.run([ARM, *flags, *script, *sources, "-o", tmp_path / "network.elf"], check=True)
    machine = ["-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
    words = ["qemu-system-arm", *machine, "-semihosting-config", "enable=on,target=native", "-kernel"]
    result = subprocess.run(
        [*words, tmp_path / "network.elf"], capture_output=True, text=True, check=True, timeout=300
    )
    found = np.array([[int(word, 16) for word in line.split()] for line in result.stdout.splitlines()], np.uint32)
    assert np.array_equal(found.view(np.float32), model.predict(images))


@needs_compiler
def test_images_less_their_mean(tmp_path: Path) -> None:
    """SiMaN's inputs: the sign of what is left after each image's mean."""
    torch.manual_seed(0)
    layer = QuantLinear(12, 3, bias=False, input_quantizer=ImageSign(), weight_quantizer=Sign())
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), layer).eval()
    packing.pack(model, tmp_path / "net", (1, 4, 4), pixel_range=(0.0, 1.0))
    found = PackedModel.load(tmp_path / "net")
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    for compiler in COMPILERS[:1]:
        assert np.array_equal(outputs(found, images, tmp_path, compiler), found.predict(images))
