"""The Kotlin of a bundle: the platform-free part run on the JVM, all of it compiled against stubs of Android's API."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.bundle import write_bundle
from edgekit.bundle.platforms import TEMPLATES
from edgekit.metrics import cosine
from edgekit.pipeline import build
from edgekit.precision import FACTS
from edgekit.recipe import Recipe

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not (shutil.which("java") and shutil.which("npm")), reason="needs a JDK and npm"),
]
ANDROID = TEMPLATES / "android"
STUBS = Path(__file__).parent / "kotlin_stubs"
_CLASSPATH = (
    "kotlin-compiler",
    "kotlin-stdlib",
    "kotlinx-coroutines-core-jvm",
    "kotlin-reflect",
    "kotlin-script-runtime",
    "annotations-13.0",
)


@pytest.fixture(scope="module")
def kotlin(tmp_path_factory) -> Path:
    """The compiler of the npm package kotlin-compiler."""
    folder = tmp_path_factory.mktemp("kotlin")
    subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), "kotlin-compiler@2.4.20"], check=True)
    return folder / "node_modules" / "kotlin-compiler"


def compile_kotlin(kotlin: Path, target: Path, *sources: Path) -> None:
    path = ":".join(str(kotlin / "lib" / f"{jar}.jar") for jar in _CLASSPATH)
    command = [
        "java",
        "-cp",
        path,
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
        "-kotlin-home",
        str(kotlin),
        "-Werror",
        "-include-runtime",
        "-d",
        str(target),
        *map(str, sources),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_jvm_prepares_pictures_as_python_does(kotlin, checkpoint, tmp_path):
    recipe = Recipe.make(
        {
            "model": str(checkpoint),
            "image_size": [(70, 70)],
            "precisions": ["fp32", "w8a8"],
            "calibration": {"source": "demo", "samples": 8},
        }
    )
    build(recipe, tmp_path / "out", measure="none")
    bundle = write_bundle(tmp_path / "out", tmp_path / "bundle", platforms=["android"]).path
    compile_kotlin(kotlin, tmp_path / "core.jar", bundle / "android" / "core" / "src")
    command = ["java", "-cp", str(tmp_path / "core.jar"), "edgekit.JvmCheckKt", str(bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == 7
    model = edgekit.load(bundle / "onnx" / "model.onnx")
    for file in sorted(tmp_path.glob("*.f32")):
        pixel_values = np.fromfile(file, "<f4").reshape(1, 3, 70, 70)
        expected = model(Image.open(bundle / "golden" / "pictures" / f"{file.stem}.ppm"))["pooler_output"]
        assert cosine(model(pixel_values)["pooler_output"], expected)[0] > FACTS["fp32"].least_cosine
    config = bundle / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"shortest_edge": 80', '"shortest_edge": 81'))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_all_of_it_compiles_against_the_stubs(kotlin, tmp_path):
    sources = [ANDROID / module / "src" for module in ("core", "embed", "sample")]
    compile_kotlin(kotlin, tmp_path / "all.jar", *sources, STUBS)
