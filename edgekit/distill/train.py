"""The run itself: a frozen teacher shows every batch to all students, each step kept, logged, judged and resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.distill.group import Group, chosen, learned
from edgekit.distill.images import Batch, Split, Stream, weights_of
from edgekit.distill.judge import Score, judge
from edgekit.distill.log import Board, Log
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.state import FILE, live, load_state, prepared, save_state
from edgekit.distill.student import Student
from edgekit.distill.world import World, autocast_of
from edgekit.errors import DataError

Progress = Callable[[str, int, int], None]
Note = Callable[[str], None]
_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Graduate:
    """What became of a group: the model, which of its members it is, and all scores, "start" among them."""

    group: str
    kind: str  # "ema", "average", or "student 2" where no average was as good as the mean of the students
    student: Student
    scores: dict[str, Score]


@dataclass(frozen=True)
class Trained:
    """All graduates; `begun_at` is the step from which this process went on."""

    graduates: tuple[Graduate, ...]
    begun_at: int
    unreadable: tuple[str, ...]


class Run:
    """A distillation under way. `teacher` is wrapped as a student of itself and learns nothing."""

    def __init__(
        self, teacher: Student, groups: Sequence[Group], recipe: DistillRecipe, world: World, name: str
    ) -> None:
        """`name` tells this run from every other; a checkpoint of another is refused."""
        self.teacher, self.groups, self.recipe, self.world, self.name = teacher, tuple(groups), recipe, world, name
        autocast = autocast_of(recipe, world.device)
        self.students = [student for group in groups for student in group.students]
        for student in (teacher, *self.students, *(group.ema for group in groups)):
            student.autocast = autocast
            student.to(world.device)
        fused = world.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            [group for student in self.students for group in parameter_groups(student, recipe.weight_decay)],
            lr=recipe.rate, betas=_BETAS, fused=fused,
        )  # fmt: skip
        prepared(self.optimizer)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=autocast == torch.float16)
        self.live = live(self.groups, self.optimizer)
        self.shared: list[nn.Module] = []  # the students as their gradients are averaged over processes

    def train(
        self, split: Split, held_out: np.ndarray, folder: Path, *, board: Board, told: Progress, note: Note
    ) -> Trained:
        """From the folder's checkpoint, or from the first step, to the end.

        Raises:
            DataError: a checkpoint of another run or a damaged one, or a loss that is no number.
        """
        scores = self.judged({f"{group.name}/start": group.ema for group in self.groups}, held_out)
        begun_at = self._resume(folder / FILE)
        self.shared = [self.world.shared(student) for student in self.students]
        stream = Stream(split, self.recipe, rank=self.world.rank, processes=self.world.size)
        if not self.world.first:
            self._steps(stream, begun_at, held_out, folder, None, told, note)
            ends = self.judged(self._members(), held_out)
        else:
            with Log(folder, begun_at, board) as log:
                if not begun_at:
                    _validated(log, 0, scores)
                self._steps(stream, begun_at, held_out, folder, log, told, note)
                ends = self.judged(self._members(), held_out)
                if begun_at < self.recipe.steps:
                    _validated(log, self.recipe.steps, ends)
                    self._save(folder / FILE, self.recipe.steps)
        graduates = []
        members = self._members()
        for group in self.groups:
            mine = {name.removeprefix(f"{group.name}/"): score for name, score in ends.items()
                    if name.startswith(f"{group.name}/")}  # fmt: skip
            kind = chosen(mine)
            mine = {"start": scores[f"{group.name}/start"], **mine}
            graduates.append(Graduate(group.name, kind, members[f"{group.name}/{kind}"], mine))
        return Trained(tuple(graduates), begun_at, tuple(sorted(stream.unreadable)))

    def judged(self, students: dict[str, Student], held_out: np.ndarray) -> dict[str, Score]:
        """Scores of some of the run's models on the held-out images."""
        return judge(students, self.teacher, held_out, max(1, self.recipe.batch // self.world.size), self.world)

    def _members(self) -> dict[str, Student]:
        return {f"{group.name}/{name}": member for group in self.groups for name, member in group.members()}

    def _resume(self, path: Path) -> int:
        done, scale = load_state(path, self.live, self.name) if self.world.first and path.exists() else (0, {})
        done, scale = self.world.told((done, scale))
        if done:
            self.world.spread(self.live.values())
            if scale:
                self.scaler.load_state_dict(scale)
        return done

    def _steps(
        self, stream: Stream, begun_at: int, held_out: np.ndarray, folder: Path, log: Log | None, told: Progress,
        note: Note,
    ) -> None:  # fmt: skip
        recipe, shown = self.recipe, ""
        for batch in stream.batches(begun_at, recipe.steps):
            losses = self.step(batch)
            done = batch.step + 1
            last = done == recipe.steps
            logged = last or done % recipe.log_every == 0
            kept = not last and done % recipe.checkpoint_every == 0  # the last one comes after the judgement
            if logged or kept:
                means = self.world.mean(losses).tolist()
                self._require_numbers(means, done)
                shown = ", ".join(f"{row[0]:.4f}" for row in means)
                if log is not None and logged:
                    log.row("log", self._row(done, means))
            told(f"distil: loss {shown}" if shown else "distil", done, recipe.steps)
            if done % recipe.judge_every == 0 and not last:
                scores = self.judged(self._members(), held_out)
                if log is not None:
                    _validated(log, done, scores)
                note(f"step {done}, held out: " + "; ".join(
                    f"{name} CLS cosine {score.cls_cosine:.4f}, patches {score.patch_cosine:.4f}"
                    for name, score in scores.items() if name.endswith(("/ema", "/average"))
                ))  # fmt: skip
            if kept and self.world.first:
                self._save(folder / FILE, done)

    def step(self, batch: Batch) -> Tensor:
        """One step of all students; returns (students, 5): mean loss of this process's images, its four parts."""
        rate = rate_at(batch.step, self.recipe)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        pixels = batch.pixels.to(self.world.device, non_blocking=True)
        with torch.no_grad():
            target = self.teacher.tokens(pixels)
        self.optimizer.zero_grad(set_to_none=True)
        rows = []
        for number, student in enumerate(self.shared):  # one after the other: memory of one student's activations
            weights = weights_of(batch.positions, number, self.recipe).to(self.world.device)
            loss, parts = student(pixels, *target, weights)
            self.scaler.scale(loss).backward()
            unweighted = self.students[number].loss.of(parts).mean()
            rows.append(torch.stack([unweighted, *(part.mean() for part in parts)]))
        self.scaler.unscale_(self.optimizer)
        for student in self.students:
            nn.utils.clip_grad_norm_([value for _, value in learned(student)], self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for group in self.groups:
            group.follow(self.recipe.ema, batch.step)
        return torch.stack(rows)

    def _save(self, path: Path, done: int) -> None:
        save_state(path, self.live, self.name, done, self.scaler.state_dict())

    def _row(self, done: int, means: list[list[float]]) -> dict[str, float]:
        row: dict[str, float] = {"step": done, "images": done * self.recipe.batch,
                                 "rate": rate_at(done - 1, self.recipe)}  # fmt: skip
        for number, (loss, cls, patch, cls_l1, patch_l1) in enumerate(means, 1):
            row |= {f"loss_{number}": loss, f"cls_cosine_{number}": cls, f"patch_cosine_{number}": patch,
                    f"cls_smooth_l1_{number}": cls_l1, f"patch_smooth_l1_{number}": patch_l1}  # fmt: skip
        return row

    def _require_numbers(self, means: list[list[float]], done: int) -> None:
        for number, (loss, *_) in enumerate(means, 1):
            if not math.isfinite(loss):
                raise DataError(f"the loss of student {number} is {loss} at step {done}",
                                why="it has diverged; no checkpoint was written of it",
                                fix=f"--rate {self.recipe.rate / 3:.1g} with another --out")  # fmt: skip


def rate_at(step: int, recipe: DistillRecipe) -> float:
    """Learning rate of a step, counted from 0: a linear rise, then half a cosine down to `final_rate`."""
    warmup = round(recipe.warmup * recipe.steps)
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    share = (step - warmup) / max(1, recipe.steps - 1 - warmup)
    return recipe.final_rate + (recipe.rate - recipe.final_rate) * (1 + math.cos(math.pi * min(1.0, share))) / 2


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
