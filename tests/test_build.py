"""An sdist and a wheel build; without a compiler the wheel holds everything but the kernels, and works.

It compiles everything, minutes: set HYPERSIGN_TEST_BUILD=1 to run it.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("HYPERSIGN_TEST_BUILD") != "1", reason="compiles everything; HYPERSIGN_TEST_BUILD=1 runs it"
)
ROOT = Path(__file__).parents[1]
USE = "from hypersign.bits import backend, pack; print(backend(), pack([-1.0, 1.0])[0])"


def build(kind: str, source: Path, to: Path, **environment: str) -> Path:
    """What building `source` leaves in `to`: one file."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(to), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert result.returncode == 0, result.stdout + result.stderr
    (made,) = to.iterdir()
    return made


def use(wheel: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Uses an installed wheel; without `site`, so that an editable install does not come first."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
    path = os.pathsep.join([str(to), sysconfig.get_paths()["platlib"]])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, "-S", "-c", USE], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture
def source(sdist: Path, tmp_path: Path) -> Path:
    """The sdist, unpacked anew (a build folder keeps its compiler): wheels are built from what is in it."""
    folder = tmp_path / "source"
    folder.mkdir()
    subprocess.run(["tar", "-xzf", str(sdist), "-C", str(folder)], check=True)
    (unpacked,) = folder.iterdir()
    assert not (unpacked / "docs").exists()
    return unpacked


def test_without_a_compiler(source: Path, tmp_path: Path) -> None:
    wheel = build("wheel", source, tmp_path / "wheel", CXX="/bin/false")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "_native" in name]
    result = use(wheel, tmp_path / "installed")
    assert result.stdout.split() == ["numpy", "1"]
    assert result.stderr.count("without its compiled kernels") == 1


def test_with_a_compiler(source: Path, tmp_path: Path) -> None:
    wheel = build("wheel", source, tmp_path / "wheel")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hypersign/_native.")]
    result = use(wheel, tmp_path / "installed")
    assert result.stdout.split()[0] != "numpy", result.stderr
    assert (result.stdout.split()[1], result.stderr) == ("1", "")
