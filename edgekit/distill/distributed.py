"""Distributed training: rank, world size, device and collectives of this process (torchrun, DDP)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import BackendMissing, DataError, RecipeError


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of this process; rank 0 alone writes and reports."""

    rank: int
    size: int
    device: torch.device
    machine_first: bool = True  # local rank 0

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    def shared(self, module: nn.Module, *, whole: bool) -> nn.Module:
        """A module whose gradients are the mean over all processes.

        `whole`: every parameter learns in every step. Blocks that learn one by one leave the embedding and the last
        norm without a gradient, which DDP then has to look for.
        """
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices, find_unused_parameters=not whole)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes of a tensor that each has."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes of a tensor that each has."""
        if self.size == 1:
            return values
        values = values.to(self.device)
        dist.all_reduce(values)
        return values

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process of each machine goes through the block alone, then the others: it fills their cache."""
        if self.size > 1 and not self.machine_first:
            dist.barrier()
        yield
        if self.size > 1 and self.machine_first:
            dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 has, on all ranks."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of rank 0 into those of all ranks, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            moved = tensor.detach().to(self.device)
            dist.broadcast(moved, src=0)
            tensor.detach().copy_(moved)

    def agree(self, digest: str) -> None:
        """Raises DataError when this process sees other images, teacher or settings than the first."""
        if self.broadcast(digest) != digest:
            raise DataError(
                f"process {self.rank} has other images, another teacher or other settings than the first",
                fix="give every machine the same files and the same command",
            )


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """The process group that torchrun describes in the environment, or a single process without one.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        RecipeError: no such device.
        BackendMissing: it is not in this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext(0, 1, _device(device, 0))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = _device(device, local)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), here, local == 0)
    finally:
        dist.destroy_process_group()


def autocast_of(recipe: DistillRecipe, device: torch.device) -> torch.dtype | None:
    """The type that matrix products run in, None for float32.

    Raises:
        RecipeError: float16 away from CUDA, where nothing scales the loss.
    """
    match recipe.precision, device.type:
        case "auto", "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        case (("auto" | "float32"), _):
            return None
        case "bfloat16", _:
            return torch.bfloat16
        case _, "cuda":
            return torch.float16
    raise RecipeError(
        f"float16 on {device.type}",
        why="its gradients underflow without CUDA's loss scaling",
        fix="--precision bfloat16",
    )


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"unknown device {name!r}", fix="--device cpu or --device cuda") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise BackendMissing(
            f"device {name!r} is not here", why=f"torch {torch.__version__} finds none", fix="--device cpu"
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local_rank)
    return device
