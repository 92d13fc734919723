"""Capabilities of this machine: host, packages, backends, fused ops and caches, each with the command that mends it."""

from __future__ import annotations

from importlib.util import find_spec

from edgekit.artifact import FORMATS, Frozen
from edgekit.backends import Backend
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
    from edgekit.pipeline.jobs import backend_of

    backends = []
    parts = [PartHealth(name=name, problem=_missing(packages, extra)) for name, packages, extra in _PARTS]
    for format_ in FORMATS:
        backend, problem = backend_of(format_)
        run = problem if backend is None else backend.runner_missing()
        backends.append(BackendHealth(name=format_, export=problem, run=run))
        if backend is not None:
            parts += _further_parts(backend)
    return Health(host=describe_host(), backends=tuple(backends), parts=tuple(parts))


def _further_parts(backend: Backend) -> list[PartHealth]:
    """The engines that quantize for a format beside ours, and its fused ops, where it has any."""
    parts = [
        PartHealth(name=f"{engine.upper()} as a second engine", problem=backend.engine_missing(engine))
        for engine in backend.peers
    ]
    if any(variant == "fused" for _, variant in backend.variants()):
        parts.append(PartHealth(name=f"fused INT8 ops in {backend.title}{_isa()}", problem=backend.fused_missing()))
    return parts


def _isa() -> str:
    """The instruction set that the kernels use here, in brackets; nothing where they are not built."""
    from edgekit.native import isa

    try:
        return f" ({isa()})"
    except BackendMissing:
        return ""


def _missing(packages: tuple[str, ...], extra: str) -> str | None:
    absent = [name for name in packages if find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install 'edgekit[{extra}]'" if absent else None
