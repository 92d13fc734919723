"""The checkpoint of a distillation run: every weight, optimizer moment and the step in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from edgekit.distill.group import Group, learned
from edgekit.errors import DataError
from edgekit.files import atomic_path, require_regular

FILE = "checkpoint.safetensors"
_META = "edgekit.distill"
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW

Scale = dict[str, float]  # of the loss scaler, empty without one


class _Meta(BaseModel):
    """The header of a checkpoint: the digest of its run, the steps that are done, the state of the loss scaler."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    step: int = Field(ge=0)
    scale: Scale


def init_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW the state it makes in its first step, in place, so that a checkpoint can be read into it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            # a fused step counts on the device of its parameter
            state["step"] = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
            for name in _MOMENTS:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def reset_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Set the moments of some parameters to zero, in place: those of another loss make the first steps far too long."""
    for parameter in parameters:
        for value in optimizer.state[parameter].values():
            value.zero_()


def live_tensors(groups: Sequence[Group], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that change in a run (not copies), by the names they have in the checkpoint."""
    found: dict[str, Tensor] = {}
    number = 0
    for place, group in enumerate(groups):
        found |= {f"ema.{place}.{key}": value for key, value in group.ema.state_dict().items()}
        for student in group.students:
            number += 1
            found |= {f"student.{number}.{key}": value for key, value in student.state_dict().items()}
            for name, parameter in learned(student):
                state = optimizer.state[parameter]
                found |= {f"optimizer.{number}.{name}.{key}": state[key] for key in ("step", *_MOMENTS)}
    return found


def save_state(path: Path, tensors: dict[str, Tensor], run: str, step: int, scale: Scale) -> None:
    """Replace the checkpoint atomically. `run` names teacher, students, images and settings."""
    from safetensors.torch import save_file

    meta = {_META: json.dumps({"run": run, "step": step, "scale": scale})}
    with atomic_path(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata=meta)


def load_state(path: Path, tensors: dict[str, Tensor], run: str) -> tuple[int, Scale]:
    """Read a checkpoint into the tensors of `live_tensors`; returns the steps that are done.

    Raises:
        DataError: it is damaged, or belongs to a run with another teacher, students, images or settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            meta = _Meta.model_validate_json((file.metadata() or {})[_META])
            if meta.run != run:
                raise DataError(
                    f"{path} is of another run",
                    why="teacher, students, images or settings differ",
                    fix=f"name another --out, or delete {path.parent}",
                )
            for key, value in tensors.items():
                value.detach().copy_(file.get_tensor(key))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is damaged", why=str(error).splitlines()[0], fix=f"delete it: the run begins anew in {path.parent}"
        ) from None
    return meta.step, meta.scale
