"""The C++ samples of a bundle of the demo model: compiled with CMake and run, for this machine and for AArch64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekit.bundle import write_bundle
from edgekit.pipeline import build
from edgekit.recipe import Recipe

pytestmark = [pytest.mark.full, pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")]
CROSS, EMULATOR, CROSS_ROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", Path("/usr/aarch64-linux-gnu/lib")
CPUINFO = """processor\t: 0
Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    recipe = {
        "model": "demo",
        "formats": ["onnx", "openvino"],
        "precisions": ["fp32", "w8a8"],
        "quantize": {"rounding": "rtn", "smooth": "off", "fc2_scale": "off", "activation_range": "minmax"},
        "calibration": {"source": "demo", "samples": 8},
    }
    build(Recipe.make(recipe), folder / "out", measure="none")
    return write_bundle(folder / "out", folder / "bundle", platforms=["cpp"]).path


def runtime(folder: Path, library: Path) -> Path:
    """ONNX Runtime's library under the name that programs are linked to."""
    folder.mkdir()
    (folder / "libonnxruntime.so.1").symlink_to(library)
    return folder


def wheel_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {package}")
    return Path(spec.origin).parent


def compiled(source: Path, target: Path, *definitions: str) -> Path:
    for command in (
        ["cmake", "-S", str(source), "-B", str(target), *definitions],
        ["cmake", "--build", str(target), "-j", str(os.cpu_count())],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return target


def checked(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout


@pytest.fixture(scope="module")
def programs(bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    library = next((wheel_of("onnxruntime") / "capi").glob("libonnxruntime.so.*"))
    runtime(folder / "lib", library)
    return compiled(
        bundle / "cpp", folder / "build", f"-DONNXRUNTIME={library}", f"-DOpenVINO_DIR={wheel_of('openvino') / 'cmake'}"
    )


@pytest.mark.parametrize(
    "model", ["onnx/model_w8a8_fused.onnx", "onnx/model_quantized.onnx", "openvino/model_w8a8.xml"]
)
def test_the_golden_check_passes_on_this_machine(bundle, programs, model):
    program = "openvino_embed" if model.endswith(".xml") else "onnxruntime_embed"
    said = checked(
        [str(programs / program), str(bundle), str(bundle / model), "--check"],
        {"LD_LIBRARY_PATH": str(programs.parent / "lib")},
    )
    exact = [line for line in said.splitlines() if ".ppm" in line]
    assert len(exact) == 7
    assert all("crop 0.000 levels off" in line for line in exact)


def test_the_check_sees_wrong_preprocessing(bundle, programs, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy, symlinks=True)
    config = (copy / "preprocessor_config.json").read_text()
    command = [str(programs / "onnxruntime_embed"), str(copy), str(copy / "onnx" / "model_quantized.onnx"), "--check"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(programs.parent / "lib")}
    for right, wrong in (
        ('"do_normalize": true', '"do_normalize": false'),
        ('"shortest_edge": 256', '"shortest_edge": 224'),
    ):
        (copy / "preprocessor_config.json").write_text(config.replace(right, wrong))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 1
        assert "FAILED odd.ppm" in done.stdout


def test_two_pictures_are_compared(bundle, programs):
    pictures = bundle / "golden" / "pictures"
    said = checked(
        [
            str(programs / "onnxruntime_embed"),
            str(bundle),
            str(bundle / "onnx" / "model_quantized.onnx"),
            str(pictures / "odd.ppm"),
            str(pictures / "odd.ppm"),
        ],
        {"LD_LIBRARY_PATH": str(programs.parent / "lib")},
    )
    assert said == "cosine similarity 1.0000\n"


@pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)), reason="needs Debian's g++-aarch64-linux-gnu and qemu-user"
)
def test_the_golden_check_passes_on_aarch64(bundle, tmp_path):
    """Emulated with the root that ONNX Runtime's look at the CPU needs: ARM's /proc/cpuinfo and one core."""
    wanted = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(tmp_path)]
    subprocess.run([*wanted, "--platform=manylinux_2_28_aarch64", "onnxruntime==1.32.0"], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "wheel")
    library = next((tmp_path / "wheel" / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))
    toolchain = tmp_path / "toolchain.cmake"
    toolchain.write_text(
        f"set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\nset(CMAKE_CXX_COMPILER {CROSS})\n"
    )
    programs = compiled(
        bundle / "cpp", tmp_path / "build", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DONNXRUNTIME={library}"
    )
    root, cpu = tmp_path / "root", tmp_path / "root" / "sys" / "devices" / "system" / "cpu"
    (cpu / "cpu0" / "topology").mkdir(parents=True)
    (root / "proc").mkdir()
    (root / "lib").symlink_to(CROSS_ROOT)
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
    for file in ("kernel_max", "possible", "present", "cpu0/topology/physical_package_id"):
        (cpu / file).write_text("0\n")
    libraries = runtime(tmp_path / "lib", library)
    checked(
        [
            EMULATOR,
            "-cpu",
            "neoverse-n1",
            "-L",
            str(root),
            "-E",
            f"LD_LIBRARY_PATH={libraries}",
            str(programs / "onnxruntime_embed"),
            str(bundle),
            str(bundle / "onnx" / "model_w8a8_fused.onnx"),
            "--check",
        ],
        {},
    )
