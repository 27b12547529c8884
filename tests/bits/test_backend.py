"""The environment chooses the back end; without compiled kernels the reference serves and says so once."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hypersign._checks import HypersignError
from hypersign.bits import available_backends, backend
from hypersign.bits.backend import forced, native

PRINTS = "from hypersign.bits import backend, pack; print(backend(), pack([-1.0, 1.0])[0])"
HIDES = "import sys; sys.modules['hypersign._native'] = None; "  # as if it had not been compiled


def run(code: str, wanted: str | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh Python, whose environment names the back end `wanted`, or none."""
    environment = {name: value for name, value in os.environ.items() if name != "HYPERSIGN_BACKEND"}
    if wanted is not None:
        environment["HYPERSIGN_BACKEND"] = wanted
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", available_backends())
def test_the_environment_forces_a_back_end(name: str) -> None:
    result = run(PRINTS, name)
    assert (result.stdout.split(), result.stderr) == ([name, "1"], "")


def test_the_fastest_serves_where_none_is_named() -> None:
    result = run(PRINTS)
    assert result.stdout.split() == [available_backends()[-1], "1"]


def test_an_unknown_back_end_is_refused() -> None:
    result = run(PRINTS, "abacus")
    assert result.returncode == 1
    assert f"HYPERSIGN_BACKEND must be one of {', '.join(available_backends())} on this machine; got 'abacus'" in (
        result.stderr
    )


def test_without_kernels_the_reference_serves_and_says_so_once() -> None:
    result = run(HIDES + PRINTS + "; import hypersign.bits.words; pack([1.0])")
    assert result.stdout.split() == ["numpy", "1"]
    assert result.stderr.count("without its compiled kernels") == 1
    accepted = run(HIDES + PRINTS, "numpy")
    assert (accepted.stdout.split(), accepted.stderr) == (["numpy", "1"], "")
    refused = run(HIDES + PRINTS, "portable")
    assert "HYPERSIGN_BACKEND must be one of numpy on this machine; got 'portable'" in refused.stderr


def test_forcing_lasts_as_long_as_its_block() -> None:
    before = backend()
    with forced("numpy"):
        assert backend() == "numpy"
        assert native() is None
        with forced(available_backends()[-1]):
            assert backend() == available_backends()[-1]
        assert backend() == "numpy"
    assert backend() == before
    with pytest.raises(HypersignError, match=r"the back end must be one of numpy.*got 'abacus'"), forced("abacus"):
        pass
    assert backend() == before


def test_back_ends_are_ordered() -> None:
    order = ["numpy", "portable", "neon", "neondot", "avx2", "avx512"]
    assert list(available_backends()) == [name for name in order if name in available_backends()]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo"
)
def test_the_instruction_sets_are_those_that_the_system_names() -> None:
    if native() is None:
        pytest.skip("the kernels are not compiled")
    (flags,) = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")}
    has = set(flags.partition(":")[2].split())
    avx2 = has >= {"avx2", "popcnt", "fma", "bmi2"}
    names = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vpopcntdq", "avx512_bitalg", "avx512_vnni"}
    expected = (
        {"numpy", "portable"} | ({"avx2"} if avx2 else set()) | ({"avx512"} if avx2 and has >= names else set())
    )
    assert set(available_backends()) == expected
