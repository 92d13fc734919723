"""Capabilities of this machine: host, packages, backends, fused ops and caches, each with the command that mends it."""

from __future__ import annotations

from importlib.util import find_spec

from edgekit.artifact import Frozen
from edgekit.backends import BACKENDS
from edgekit.errors import BackendMissing
from edgekit.host import Host, describe_host

# What a part of edgekit needs -> packages and the extra that installs them.

_PARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("load checkpoints, quantize", ("torch",), "torch"),
    ("report.html", ("jinja2", "altair", "vl_convert"), "report"),
    ("demo photographs", ("skimage", "sklearn"), "eval"),
    ("distill: TensorBoard files", ("tensorboard",), "distill"),
    ("Hugging Face hub", ("huggingface_hub",), "hub"),
    ("shards of features", ("pyarrow",), "ray"),
    ("--engine ray", ("ray", "pyarrow", "pandas"), "ray"),
    ("NNCF as a second engine", ("nncf",), "openvino"),
)


class BackendHealth(Frozen):
    """Health of one format: why it cannot be exported or run here, None where it can."""

    name: str
    export: str | None
    run: str | None


class PartHealth(Frozen):
    """One further part of edgekit and why it does not work here, None when it does."""

    name: str
    problem: str | None


class Health(Frozen):
    """The answer of `edgekit doctor`."""

    host: Host
    backends: tuple[BackendHealth, ...]
    parts: tuple[PartHealth, ...]


def examine() -> Health:
    """Look at this machine; imports no runtime."""
    from edgekit.pipeline.jobs import backend_of, fused_missing

    backends = []
    for format_ in BACKENDS:
        backend, problem = backend_of(format_)
        run = problem if backend is None else backend.runner_missing()
        backends.append(BackendHealth(name=format_, export=problem, run=run))
    parts = [PartHealth(name=name, problem=_missing(packages, extra)) for name, packages, extra in _PARTS]
    parts.append(PartHealth(name=_fused_name(), problem=fused_missing("onnx")))
    parts.append(PartHealth(name="fused INT8 ops in OpenVINO", problem=fused_missing("openvino")))
    return Health(host=describe_host(), backends=tuple(backends), parts=tuple(parts))


def _fused_name() -> str:
    """With the instruction set that the kernels use here."""
    from edgekit.native import isa

    try:
        return f"fused INT8 ops ({isa()})"
    except BackendMissing:
        return "fused INT8 ops"


def _missing(packages: tuple[str, ...], extra: str) -> str | None:
    absent = [name for name in packages if find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install 'edgekit[{extra}]'" if absent else None
