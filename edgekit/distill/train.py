"""The training run: a frozen teacher, students fed the same batches, logging, validation and resumable checkpoints.

Students that begin with the teacher's blocks learn them one by one first, each from the teacher's own stream, as in
`edgekit.distill.reconstruction`: no block has to make up for those before it, so far fewer steps are needed. The other
steps train the whole student on its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.distill.checkpoint import FILE, init_optimizer_state, live_tensors, load_state, reset_moments, save_state
from edgekit.distill.distributed import DistributedContext, autocast_of
from edgekit.distill.group import Group, chosen, learned
from edgekit.distill.images import Batch, Split, Stream, weights_of
from edgekit.distill.judge import Score, judge
from edgekit.distill.log import Board, Log
from edgekit.distill.loss import Parts, kinds
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.student import Segment, Student
from edgekit.errors import DataError
from edgekit.progress import StageProgress

Note = Callable[[str], None]
_BETAS = (0.9, 0.999)
_MEASURED_BATCHES = 8  # from which the teacher's statistics are taken
_KINDS = ("cls", "patch")
_COLUMNS = ("block_loss", "loss", *Parts._fields)


@dataclass(frozen=True)
class Graduate:
    """The result of a group: the model, which of its members it is, and all scores, "start" among them."""

    group: str
    kind: str  # "ema", "average", or "student 2" where no average was as good as the mean of the students
    student: Student
    scores: dict[str, Score]


@dataclass(frozen=True)
class Trained:
    """All graduates and, as "group/name", every candidate; `first_step` is the step this process resumed from."""

    graduates: tuple[Graduate, ...]
    members: dict[str, Student]
    first_step: int
    unreadable: tuple[str, ...]


class Run:
    """A distillation under way. `teacher` is wrapped as a student of itself and learns nothing."""

    def __init__(
        self, teacher: Student, groups: Sequence[Group], recipe: DistillRecipe, context: DistributedContext, name: str
    ) -> None:
        """Prepare the run `name`; a checkpoint of another name is refused."""
        self.teacher, self.groups, self.recipe, self.context, self.name = teacher, tuple(groups), recipe, context, name
        autocast = autocast_of(recipe, context.device)
        self.students = [student for group in groups for student in group.students]
        for student in (teacher, *self.students, *(group.ema for group in groups)):
            student.autocast = autocast
            student.to(context.device)
        fused = context.device.type in ("cpu", "cuda")
        self.parameters = [parameter_groups(student, recipe.weight_decay) for student in self.students]
        self.optimizer = torch.optim.AdamW(
            [group for groups in self.parameters for group in groups], lr=recipe.rate, betas=_BETAS, fused=fused
        )
        self.side = max(student.side for student in (teacher, *self.students))  # of the crops: none is enlarged
        self.bounds = {bound for student in self.students for segment in student.segments for bound in segment}
        init_optimizer_state(self.optimizer)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=autocast == torch.float16)
        self.live = live_tensors(self.groups, self.optimizer)
        self.shared: list[nn.Module] = []  # the students as their gradients are averaged over processes

    def train(
        self, split: Split, held_out: np.ndarray, folder: Path, *, board: Board, progress: StageProgress, note: Note
    ) -> Trained:
        """Train from the folder's checkpoint, or from the first step, to the end.

        Raises:
            DataError: a checkpoint of another run or a damaged one, or a loss that is no number.
        """
        stream = Stream(split, self.recipe, side=self.side, rank=self.context.rank, processes=self.context.size)
        self._measure_teacher(stream)
        scores = self.judged({f"{group.name}/start": group.ema for group in self.groups}, held_out)
        first_step = self._resume(folder / FILE)
        self.shared = [
            self.context.shared(student, whole=not (student.segments and block_steps(self.recipe)))
            for student in self.students
        ]
        if not self.context.first:
            self._steps(stream, first_step, held_out, folder, None, progress, note)
            ends = self.judged(self._members(), held_out)
        else:
            with Log(folder, first_step, board) as log:
                if not first_step:
                    _validated(log, 0, scores)
                self._steps(stream, first_step, held_out, folder, log, progress, note)
                ends = self.judged(self._members(), held_out)
                if first_step < self.recipe.steps:
                    _validated(log, self.recipe.steps, ends)
                    self._save(folder / FILE, self.recipe.steps)
        graduates = []
        members = self._members()
        for group in self.groups:
            mine = {
                name.removeprefix(f"{group.name}/"): score
                for name, score in ends.items()
                if name.startswith(f"{group.name}/")
            }
            kind = chosen(mine)
            mine = {"start": scores[f"{group.name}/start"], **mine}
            graduates.append(Graduate(group.name, kind, members[f"{group.name}/{kind}"], mine))
        return Trained(tuple(graduates), members, first_step, tuple(sorted(stream.unreadable)))

    def judged(self, students: dict[str, Student], held_out: np.ndarray) -> dict[str, Score]:
        """Scores of some of the run's models on the held-out images."""
        return judge(students, self.teacher, held_out, max(1, self.recipe.batch // self.context.size), self.context)

    @torch.no_grad()
    def _measure_teacher(self, stream: Stream) -> None:
        """Set what losses are relative to: mean and deviation of its tokens, energy of what its segments add."""
        tokens: dict[str, Tensor] = {}
        added: dict[Segment, Tensor] = {}
        segments = {segment for student in self.students for segment in student.segments}
        count = min(_MEASURED_BATCHES, self.recipe.steps)
        for batch in stream.batches(0, count):
            found, streams = self.teacher.taught(batch.pixels.to(self.context.device), self.bounds)
            for kind, values in zip(_KINDS, found, strict=True):
                flat = values.flatten(0, -2).cpu().double()  # not every device has doubles
                tokens[kind] = tokens.get(kind, 0) + torch.stack([flat.mean(0), flat.square().mean(0)]) / count
            for first, last in segments:
                change = kinds(streams[last].cpu().double() - streams[first].cpu().double()).mean(0)
                added[first, last] = added.get((first, last), 0) + change / count
        tokens = {kind: self.context.mean(moments) for kind, moments in tokens.items()}
        added = {segment: self.context.mean(added[segment]) for segment in sorted(added)}
        for student in (*self.students, *(group.ema for group in self.groups)):
            if self.recipe.standardise:
                for kind, moments in tokens.items():
                    student.standard.set(kind, *moments)
            for number, segment in enumerate(student.segments):
                student.block_loss.set(number, added[segment])

    def _members(self) -> dict[str, Student]:
        return {f"{group.name}/{name}": member for group in self.groups for name, member in group.members()}

    def _resume(self, path: Path) -> int:
        done, scale = load_state(path, self.live, self.name) if self.context.first and path.exists() else (0, {})
        done, scale = self.context.broadcast((done, scale))
        if done:
            self.context.broadcast_tensors(self.live.values())
            if scale:
                self.scaler.load_state_dict(scale)
        return done

    def _steps(
        self,
        stream: Stream,
        first_step: int,
        held_out: np.ndarray,
        folder: Path,
        log: Log | None,
        progress: StageProgress,
        note: Note,
    ) -> None:
        recipe, shown = self.recipe, ""
        for batch in stream.batches(first_step, recipe.steps):
            losses = self.step(batch)
            done = batch.step + 1
            last = done == recipe.steps
            logged = last or done % recipe.log_every == 0
            kept = not last and done % recipe.checkpoint_every == 0  # the last one comes after the judgement
            if logged or kept:
                means = self.context.mean(losses).tolist()
                shown = ", ".join(f"{loss:.4f}" for loss in self._losses(means, done))
                if log is not None and logged:
                    log.row("log", self._row(done, means))
            progress(f"distil: loss {shown}" if shown else "distil", done, recipe.steps)
            if done % recipe.judge_every == 0 and not last:
                scores = self.judged(self._members(), held_out)
                if log is not None:
                    _validated(log, done, scores)
                note(
                    f"step {done}, held out: "
                    + "; ".join(
                        f"{name} CLS cosine {score.cls_cosine:.4f}, patches {score.patch_cosine:.4f}"
                        for name, score in scores.items()
                        if name.endswith(("/ema", "/average"))
                    )
                )
            if kept and self.context.first:
                self._save(folder / FILE, done)

    def step(self, batch: Batch) -> Tensor:
        """One step of all students; returns (students, 2 + parts): means over this process's images."""
        for groups, student in zip(self.parameters, self.students, strict=True):
            if student.segments and batch.step == block_steps(self.recipe):
                reset_moments(self.optimizer, [value for _, value in learned(student)])
            for parameters in groups:
                parameters["lr"] = rate_at(batch.step, self.recipe, student.segments)
        pixels = batch.pixels.to(self.context.device, non_blocking=True)
        with torch.no_grad():
            target, streams = self.teacher.taught(pixels, self.bounds if self._blockwise(batch.step) else ())
        self.optimizer.zero_grad(set_to_none=True)
        rows = []
        for number, shared in enumerate(self.shared):  # one after the other: memory of one student's activations
            weights = weights_of(batch.positions, number, self.recipe).to(self.context.device)
            alone = streams if streams and self.students[number].segments else None
            loss, row = shared(pixels, target, weights, alone)
            self.scaler.scale(loss).backward()
            rows.append(row)
        self.scaler.unscale_(self.optimizer)
        for student in self.students:
            student.mask_key_bias()
            nn.utils.clip_grad_norm_([value for _, value in learned(student)], self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for group in self.groups:
            group.follow(self.recipe.ema, batch.step)
        return torch.stack(rows)

    def _save(self, path: Path, done: int) -> None:
        for number, student in enumerate(self.students, 1):
            if not all(torch.isfinite(value).all() for _, value in learned(student)):
                raise self._diverged(number, "weights are no numbers", done)
        save_state(path, self.live, self.name, done, self.scaler.state_dict())

    def _blockwise(self, step: int) -> bool:
        return step < block_steps(self.recipe)

    def _row(self, done: int, means: list[list[float]]) -> dict[str, str | float]:
        row: dict[str, str | float] = {"step": done, "images": done * self.recipe.batch}
        for number, (values, student) in enumerate(zip(means, self.students, strict=True), 1):
            row[f"rate_{number}"] = rate_at(done - 1, self.recipe, student.segments)
            row |= {
                f"{name}_{number}": "" if math.isnan(value) else value
                for name, value in zip(_COLUMNS, values, strict=True)
            }
        return row

    def _losses(self, means: list[list[float]], done: int) -> list[float]:
        """The loss that each student descends. Raises DataError when one is no number."""
        losses = []
        for number, (values, student) in enumerate(zip(means, self.students, strict=True), 1):
            losses.append(values[0 if student.segments and self._blockwise(done - 1) else 1])
            if not math.isfinite(losses[-1]):
                raise self._diverged(number, "loss is no number", done)
        return losses

    def _diverged(self, number: int, what: str, done: int) -> DataError:
        return DataError(
            f"student {number} has diverged: its {what} at step {done}",
            why="no checkpoint was written of it",
            fix="another --out, with a lower rate, block_rate or tune_rate in --recipe",
        )


def block_steps(recipe: DistillRecipe) -> int:
    """The number of steps that train blocks one by one."""
    return round(recipe.blockwise * recipe.steps)


def rate_at(step: int, recipe: DistillRecipe, segments: Sequence[Segment] = ()) -> float:
    """Learning rate of a step, counted from 0, for a student with or without segments.

    In each part of the run a linear rise, then half a cosine down to `final_rate`. At the rate that suits a student
    from end to end, one whose blocks have learned first loses much of that again.
    """
    first = block_steps(recipe) if segments else 0
    if step < first:
        start, stop, highest = 0, first, recipe.block_rate
    else:
        start, stop, highest = first, recipe.steps, recipe.tune_rate if first else recipe.rate
    warmup = round(recipe.warmup * (stop - start))
    done = step - start
    if done < warmup:
        return highest * (done + 1) / warmup
    share = (done - warmup) / max(1, stop - start - 1 - warmup)
    return recipe.final_rate + (highest - recipe.final_rate) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def parameter_groups(student: Student, decay: float) -> list[dict[str, object]]:
    """Matrices decay; vectors (biases, norms, LayerScale) and tokens do not, as in the official training."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in learned(student):
        plain = value.ndim < 2 or name.endswith("_tokens") or name.endswith(("cls_token", "pos_embed"))
        (others if plain else matrices).append(value)
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _validated(log: Log, step: int, scores: dict[str, Score]) -> None:
    for name, score in scores.items():
        log.row("validation", {"step": step, "model": name, **score.model_dump(exclude={"n"})})
