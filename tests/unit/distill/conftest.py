"""A tiny teacher, photographs, and a whole distillation of it that several modules look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import random_model
from edgekit.workflows.distill import Distilled
from tests.support.distil_runs import run
from tests.support.models import TINY, photographs


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    """The runs set torch's threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher.safetensors (4 blocks) and photos/."""
    folder = tmp_path_factory.mktemp("distil")
    save_checkpoint(random_model(replace(TINY, depth=4)), folder / "teacher.safetensors")
    photographs(folder / "photos", 24)
    return folder


@pytest.fixture(scope="package")
def whole(files: Path) -> Distilled:
    """A run that nobody interrupts, in files/whole."""
    return run(files, files / "whole").distilled
