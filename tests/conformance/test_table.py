"""The table of backends itself: every row imports without its runtime and says what is missing in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgekit.artifact import FORMATS, Format
from edgekit.backends import Backend, get_backend

RUNTIMES = (
    "ai_edge_litert",
    "ai_edge_quantizer",
    "coremltools",
    "litert_torch",
    "nncf",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tensorflow",
    "tflite_runtime",
    "torch",
)

NOTHING_INSTALLED = """
import json, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","): return None
        return self.finder.find_spec(name, path, target)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
from pathlib import Path
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends import get_backend
from edgekit.errors import BackendMissing, DataError
backend = get_backend(sys.argv[1])
artifact = Artifact(name="x/fp32", path=Path("x"), format=sys.argv[1], precision="fp32", inputs=(), outputs=(),
                    preprocess=Preprocess.for_size(14, 14), recipe_digest="", parent_sha256="", sha256="", size_mb=0)
raised = []
for call in (lambda: backend.export(None, "fp32", "standard", Path("x")), lambda: backend.runner(artifact)):
    try: call()
    except (BackendMissing, DataError) as error: raised.append(str(error))
print(json.dumps([backend.missing(), backend.runner_missing(), raised]))
"""


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("format_", FORMATS)
def test_a_row_is_a_backend_of_its_format(format_: Format) -> None:
    backend = get_backend(format_)
    assert isinstance(backend, Backend)
    assert backend.format == format_
    assert ("fp32", "standard") in backend.variants()


@pytest.mark.parametrize("format_", FORMATS)
def test_importing_a_backend_loads_no_runtime(format_: Format) -> None:
    code = (
        "import sys; from edgekit.backends import get_backend; b = get_backend(sys.argv[1]); b.missing(); b.variants()"
    )
    loaded = python(f"{code}; b.runner_missing(); print(*sys.modules)", format_).split()
    assert not set(RUNTIMES) & set(loaded)


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_not_installed_is_said_with_the_command_that_mends_it(format_: Format) -> None:
    missing, runner_missing, raised = json.loads(python(NOTHING_INSTALLED, format_, ",".join(RUNTIMES)))
    assert f"edgekit[{format_}]" in missing
    assert runner_missing or not get_backend(format_).runtime_packages  # libedgekit needs no package
    assert len(raised) == 2
    assert all(len(sentence.split()) > 4 for sentence in (missing, *raised, *filter(None, [runner_missing])))
