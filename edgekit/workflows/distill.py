"""Distils a teacher into students on a folder of images: prepares, trains or resumes, and writes the graduates."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import __version__
from edgekit.artifact import Frozen
from edgekit.distill.judge import Score
from edgekit.distill.log import BOARD_FIX, Board, board_missing
from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.files import atomic_path, read_text
from edgekit.models import zoo
from edgekit.pipeline.folder import folder_lock
from edgekit.pipeline.watch import Silent, Watcher

if TYPE_CHECKING:
    from edgekit.distill.distributed import DistributedContext
    from edgekit.distill.group import Group
    from edgekit.distill.images import Split
    from edgekit.distill.student import StudentSpec

Keep = Literal["graduates", "all"]
RUN, RESULT, SCHEMA = "run.json", "distill.json", "edgekit.distill/1"


class GraduateRow(Frozen):
    """A student that is finished. `file` is relative to the folder; `scores` are of the held-out images."""

    name: str
    file: str
    kind: str  # "ema", "average", or "student 2"
    init: str
    parameters: int
    scores: dict[str, Score]


class Distilled(Frozen):
    """The result of a distillation run; also `distill.json` in its folder."""

    run: str
    teacher: str
    training_images: int
    held_out_images: int
    skipped: tuple[str, ...]  # images that could not be read
    recipe: DistillRecipe
    processes: int
    device: str
    graduates: tuple[GraduateRow, ...]


@dataclass(frozen=True)
class Outcome:
    """A result, and what of the work was done by this call: "new", "resumed" or "kept"."""

    distilled: Distilled
    fate: str


@dataclass(frozen=True)
class Running:
    """Settings of a run that do not change its result."""

    device: str  # "auto", "cpu", "cuda", "cuda:1" or "mps"
    board: Board = "auto"  # whether TensorBoard's event files are written; "auto": where tensorboard is installed
    threads: int | None = None  # of torch on the CPU; None leaves torch's own choice
    keep: Keep = "graduates"  # "all" writes every student and average to `members/`, too


@dataclass(frozen=True)
class _Prepared:
    """A run before its first step: teacher, students and their first weights, images, and its name."""

    teacher: zoo.LoadedModel
    groups: Sequence[Group]
    inits: Sequence[str]
    split: Split
    name: str


def distil_folder(
    teacher: str,
    students: Sequence[str],
    data: Path,
    out: Path,
    recipe: DistillRecipe,
    running: Running,
    watcher: Watcher,
) -> Outcome | None:
    """Train students of `teacher` on the images of `data`; the same call goes on where a killed one stopped.

    Under torchrun every process calls it; `out` is written by the first one alone.

    Args:
        teacher: a name of the zoo or a checkpoint.
        students: see `StudentSpec.parse`; `recipe.copies` of each are trained.
        data: a folder of images, nested or not; labels are not used.
        out: gets a .safetensors file per architecture (student.safetensors of a single one), logs and the checkpoint.
        recipe: everything else that decides the result.
        running: device, threads and files that do not change the result.
        watcher: is told what is being done.

    Returns:
        The result, or None in processes other than the first.

    Raises:
        RecipeError: unknown teacher or student, or settings that do not fit together.
        DataError: too few images, an unreadable checkpoint, or a folder of another run.
        BackendMissing: torch, tensorboard (when asked for) or the device is missing.
    """
    if not students:
        raise RecipeError("no student", fix="--student depth=6")
    if running.board == "on" and board_missing():
        raise BackendMissing("TensorBoard's event files need tensorboard", fix=BOARD_FIX)
    if find_spec("torch") is None:
        raise BackendMissing("distillation needs torch", fix=BOARD_FIX)
    import torch

    from edgekit.distill.distributed import autocast_of, distributed_context
    from edgekit.distill.images import Split
    from edgekit.distill.student import StudentSpec

    if running.threads:
        torch.set_num_threads(running.threads)
    specs = [StudentSpec.parse(text) for text in students]
    with distributed_context(running.device) as context:
        watcher = watcher if context.first else Silent()
        with context.in_turn():
            loaded = zoo.load(teacher, notify=watcher.note)
        if recipe.batch % context.size:
            raise RecipeError(
                f"a batch of {recipe.batch} does not divide among {context.size} processes",
                fix=f"--batch {max(1, recipe.batch // context.size) * context.size}",
            )
        autocast_of(recipe, context.device)
        split = Split.of(data, recipe)
        with context.in_turn():  # a checkpoint of `init` may be fetched, too
            groups, inits = _groups(specs, loaded, recipe)
        name = _name(loaded, groups, inits, split, recipe)
        context.agree(name)
        if context.first and running.board == "auto" and board_missing():
            watcher.note(f"no TensorBoard files: {BOARD_FIX}")
        with folder_lock(out) if context.first else nullcontext():
            kept = context.broadcast(_kept(out, name) if context.first else None)
            if kept is not None:
                watcher.note(f"{out} is finished already")
                return Outcome(kept, "kept") if context.first else None
            if context.first:
                _claim(out, name, teacher, specs, data, recipe)
            for group, init in zip(groups, inits, strict=True):
                count = len(group.students)
                watcher.note(f"{group.name}: {count} student{'s' if count > 1 else ''}, begun with {init}")
            prepared = _Prepared(loaded, groups, inits, split, name)
            return _trained(prepared, recipe, context, out, running, watcher)


def _groups(
    specs: Sequence[StudentSpec], loaded: zoo.LoadedModel, recipe: DistillRecipe
) -> tuple[list[Group], list[str]]:
    from edgekit.distill.beginning import begin
    from edgekit.distill.group import Group
    from edgekit.distill.loss import TokenLoss

    loss = TokenLoss(recipe.cls_weight, recipe.patch_weight, recipe.cosine_weight, recipe.smooth_l1_weight)
    beginnings = [begin(spec, loaded.model, side=recipe.image_size, seed=recipe.seed) for spec in specs]
    seen: Counter[str] = Counter()
    groups = []
    for each in beginnings:
        seen[each.name] += 1
        name = each.name if seen[each.name] == 1 else f"{each.name}-{seen[each.name]}"
        groups.append(Group.of(name, each, recipe.copies, loaded.model.config.width, loss, recipe.seed))
    return groups, [each.init for each in beginnings]


def _name(
    loaded: zoo.LoadedModel, groups: Sequence[Group], inits: Sequence[str], split: Split, recipe: DistillRecipe
) -> str:
    """The name of a run: a digest of the teacher, the students' first weights, the images and the settings."""
    total = hashlib.sha256(f"{loaded.sha256} {split.digest} {recipe.digest}".encode())
    for group, init in zip(groups, inits, strict=True):
        total.update(f"{group.name} {init}".encode())
        for key, value in group.ema.state_dict().items():
            total.update(key.encode())
            total.update(value.numpy().data)
    return total.hexdigest()[:16]


def _kept(out: Path, name: str) -> Distilled | None:
    """The result of this very run, if it is whole."""
    try:
        found = Distilled.model_validate_json(read_text(out / RESULT))
    except (OSError, ValueError, DataError):
        return None
    return found if found.run == name and all((out / row.file).is_file() for row in found.graduates) else None


def _claim(out: Path, name: str, teacher: str, specs: Sequence[StudentSpec], data: Path, recipe: DistillRecipe) -> None:
    """Write run.json into a folder that is empty or this run's.

    Raises:
        DataError: the folder holds another run, or files of something else.
    """
    wanted: dict[str, Any] = {
        "schema": SCHEMA,
        "run": name,
        "teacher": teacher,
        "data": str(data),
        "students": [spec.model_dump(mode="json", exclude_none=True) for spec in specs],
        "recipe": recipe.model_dump(mode="json"),
    }
    path = out / RUN
    try:
        found = json.loads(read_text(path))
    except FileNotFoundError:
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if others:
            raise DataError(
                f"{out} holds other files ({', '.join(others[:3])})",
                why="a run has a folder of its own",
                fix="name a new folder with --out",
            ) from None
        found = None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged", why=str(error), fix=f"delete {out}, or name another --out") from None
    if not isinstance(found, dict | None):
        raise DataError(f"{path} is damaged", why="it is no object", fix=f"delete {out}, or name another --out")
    if found is not None and found.get("run") != name:
        keys = ("teacher", "data", "students", "recipe")
        differ = [_difference(key, found.get(key), wanted[key]) for key in keys if found.get(key) != wanted[key]]
        raise DataError(
            f"{out} holds another run",
            why="; ".join(differ) or "its images or weights were others",
            fix="name another --out, or delete that folder",
        )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def _difference(key: str, was: object, is_: object) -> str:
    if isinstance(was, dict) and isinstance(is_, dict):
        parts = sorted(name for name in was.keys() | is_.keys() if was.get(name) != is_.get(name))
        return ", ".join(f"{name} was {was.get(name)!r}, not {is_.get(name)!r}" for name in parts)
    return f"{key} was {was!r}, not {is_!r}"


def _trained(
    prepared: _Prepared,
    recipe: DistillRecipe,
    context: DistributedContext,
    out: Path,
    running: Running,
    watcher: Watcher,
) -> Outcome | None:
    from edgekit.distill.checkpoint import FILE
    from edgekit.distill.images import held_out_pixels
    from edgekit.distill.student import Student
    from edgekit.distill.train import Run
    from edgekit.models.checkpoint import save_checkpoint

    loaded, groups, split = prepared.teacher, prepared.groups, prepared.split
    frozen = loaded.model.bake(recipe.image_size, recipe.image_size).requires_grad_(False)
    teacher = Student(frozen, frozen.config.width, groups[0].ema.loss, recipe.seed, side=recipe.image_size).eval()
    run = Run(teacher, groups, recipe, context, prepared.name)
    watcher.stage("held-out images")
    held_out, unreadable = held_out_pixels(split, run.side)
    trained = run.train(split, held_out, out, board=running.board, progress=watcher.stage, note=watcher.note)
    if not context.first:
        return None
    licence = "" if loaded.licence.startswith("unknown") else loaded.licence
    origin = f"distilled from {loaded.name} ({loaded.origin}) by edgekit {__version__}"
    if running.keep == "all":
        for member, student in trained.members.items():
            path = out / "members" / f"{member.replace(' ', '_')}.safetensors"
            save_checkpoint(student.backbone, path, licence=licence, origin=origin, licence_text=loaded.licence_text)
    rows = []
    for graduate, init in zip(trained.graduates, prepared.inits, strict=True):
        file = "student.safetensors" if len(groups) == 1 else f"student_{graduate.group}.safetensors"
        model = graduate.student.backbone.cpu()
        save_checkpoint(model, out / file, licence=licence, origin=origin, licence_text=loaded.licence_text)
        rows.append(
            GraduateRow(
                name=graduate.group,
                file=file,
                kind=graduate.kind,
                init=init,
                parameters=model.config.parameters,
                scores=graduate.scores,
            )
        )
    distilled = Distilled(
        run=prepared.name,
        teacher=loaded.name,
        training_images=len(split.training),
        held_out_images=len(held_out),
        skipped=(*unreadable, *trained.unreadable),
        recipe=recipe,
        processes=context.size,
        device=str(context.device),
        graduates=tuple(rows),
    )
    with atomic_path(out / RESULT) as temporary:
        temporary.write_text(distilled.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / FILE).unlink(missing_ok=True)  # three times the students' size, and nothing is left to resume
    return Outcome(distilled, "resumed" if trained.first_step else "new")
