"""The command line: one row per command, each imported only when it is run, and one place where errors become words."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperGroup

from edgekit.cli.verbosity import Quiet, Verbose, choose, set_level, with_verbosity

if TYPE_CHECKING:
    from edgekit.errors import EdgekitError

_INTERRUPTED, _TERMINATED = 130, 143  # 128 + SIGINT (Typer has it so, too) and SIGTERM, as in shells
_ENDED = {_INTERRUPTED: "interrupted", _TERMINATED: "terminated"}

MAKE, MEASURE, IMPROVE, SHIP, LOOK = "Make", "Measure", "Improve", "Ship", "Look up"


class Command(NamedTuple):
    """A row of the table: where the function is, its line in `edgekit --help`, the panel there, and an example."""

    home: str  # "module:function"
    line: str
    panel: str
    example: str


COMMANDS: dict[str, Command] = {
    "build": Command(
        "edgekit.cli.build:build",
        "Checkpoint in; measured artifacts and a report out.",
        MAKE,
        "edgekit build --model dinov2_vits14 --calib photos/ --format onnx,openvino --precision fp32,w8a8 --out OUT",
    ),
    "export": Command(
        "edgekit.cli.build:export",
        "Only write the artifacts, without measuring them.",
        MAKE,
        "edgekit export --model demo --format tflite --precision w8a8 --out OUT",
    ),
    "quantize": Command(
        "edgekit.cli.build:quantize",
        "Only make the quantization plan.",
        MAKE,
        "edgekit quantize --model demo --calib photos/ --out OUT",
    ),
    "join": Command(
        "edgekit.cli.join:join",
        "Several image sizes in one Core ML package.",
        MAKE,
        "edgekit join OUT --to sizes.mlpackage --image-size 224,518",
    ),
    "drift": Command(
        "edgekit.cli.measure:drift",
        "How far an artifact's features are from another's.",
        MEASURE,
        "edgekit drift OUT --eval photos/ --samples 200",
    ),
    "bench": Command(
        "edgekit.cli.measure:bench",
        "Latency of artifacts, measured in turns.",
        MEASURE,
        "edgekit bench OUT --threads 1 --save",
    ),
    "check": Command(
        "edgekit.cli.check:check",
        "A gate on drift and latency: exit 3 when it does not hold.",
        MEASURE,
        "edgekit check OUT --max-cosine-drop 0.005 --baseline manifest.json",
    ),
    "explain": Command(
        "edgekit.cli.explain:explain", "Where an INT8 model's drift comes from.", MEASURE, "edgekit explain OUT"
    ),
    "registers": Command(
        "edgekit.cli.registers:registers",
        "Is the register variant worth its tokens, on your images?",
        MEASURE,
        "edgekit registers dinov2_vits14 dinov2_vits14_reg --images photos/",
    ),
    "report": Command(
        "edgekit.cli.measure:report",
        "Draw report.html of a build folder again.",
        MEASURE,
        "edgekit report OUT --against EARLIER",
    ),
    "curate": Command(
        "edgekit.cli.curate:curate",
        "A small, varied calibration folder out of a large one.",
        IMPROVE,
        "edgekit curate photos/ -n 64 --out calibration",
    ),
    "distill": Command(
        "edgekit.cli.distill:distill",
        "Smaller students of a model, on your images.",
        IMPROVE,
        "edgekit distill --teacher dinov2_vits14 --student depth=6 --data photos/ --out students",
    ),
    "fit-head": Command(
        "edgekit.cli.fit_head:fit_head",
        "A classifier for your labelled folder, for build --heads.",
        IMPROVE,
        "edgekit fit-head labelled/ --out head.safetensors",
    ),
    "embed": Command(
        "edgekit.cli.embed:embed",
        "Features of your images, as a file.",
        SHIP,
        "edgekit embed OUT photos/ --out features.npz",
    ),
    "depth": Command(
        "edgekit.cli.depth:depth",
        "The depth map of a photograph, as colours and as values.",
        SHIP,
        "edgekit depth OUT cat.jpg --out depth.png --out depth.npy",
    ),
    "bundle": Command(
        "edgekit.cli.bundle:bundle",
        "A folder to upload and to use in an app, samples included.",
        SHIP,
        "edgekit bundle OUT --to BUNDLE --platform web,ios",
    ),
    "verify": Command(
        "edgekit.cli.verify:verify",
        "Whether a bundle is whole, and signed by whom you trust.",
        SHIP,
        "edgekit verify BUNDLE --key publisher.pub",
    ),
    "models": Command(
        "edgekit.cli.models:models", "The models edgekit knows, with size, source and licence.", LOOK, "edgekit models"
    ),
    "recipes": Command(
        "edgekit.cli.recipes:recipes", "The recipes that come with edgekit.", LOOK, "edgekit recipes phone"
    ),
    "inspect": Command(
        "edgekit.cli.models:inspect",
        "What a model, an artifact or a build folder holds.",
        LOOK,
        "edgekit inspect OUT/onnx/model_w8a8.onnx",
    ),
    "doctor": Command(
        "edgekit.cli.doctor:doctor", "What is installed, and what each backend can do here.", LOOK, "edgekit doctor"
    ),
}
"""The commands by name, in the order of `edgekit --help`; a new command is a new row."""


class _LazyGroup(TyperGroup):
    """Lists all commands from the table; imports a command's module when it is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _listed(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0].lower(), COMMANDS, n=2)
            ctx.fail(
                f"No such command {args[0]!r}. " + (f"Did you mean {' or '.join(near)}?" if near else "See edgekit -h.")
            )
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else command_of(name), rest


def _listed(name: str) -> Any:
    """A stand-in that knows no more than the list in --help shows."""
    single = typer.Typer(add_completion=False)
    single.command(name=name, help=COMMANDS[name].line, rich_help_panel=COMMANDS[name].panel)(lambda: None)
    return typer.main.get_command(single)


def command_of(name: str) -> Any:
    """The command of a row of the table, ready to parse its words."""
    module, _, function = COMMANDS[name].home.partition(":")
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    example = f"Example:  [bold]{COMMANDS[name].example}[/]"
    single.command(name=name, epilog=example)(with_verbosity(getattr(import_module(module), function)))
    return typer.main.get_command(single)


app = typer.Typer(
    cls=_LazyGroup,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from edgekit import __version__

        print(f"edgekit {__version__}")
        raise typer.Exit


@app.callback()
def _edgekit(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """DINOv2 for the edge: fused INT8 models for ONNX Runtime, OpenVINO, Core ML and TFLite, each with proof.

    Start with:  edgekit build --model demo --out OUT
    """
    choose(quiet, verbose)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 ok, 1 error, 2 usage, 3 gate failed, 130 interrupted, 143 terminated.
    """
    from edgekit.cli.streams import patient_streams

    words = list(sys.argv[1:] if arguments is None else arguments)
    set_level("normal")
    with patient_streams() as problems, _terminated_like_interrupted():
        code = _run(words)
    if problems:
        print(f"error cannot write to standard output: {problems[0]}", file=sys.stderr)
    return code or int(bool(problems))


def _run(words: list[str]) -> int:
    """The exit code of one command, every error told."""
    from edgekit.errors import EdgekitError

    try:
        return int(app(words, prog_name="edgekit", standalone_mode=True) or 0)
    except (SystemExit, KeyboardInterrupt) as end:
        given = _INTERRUPTED if isinstance(end, KeyboardInterrupt) else end.code
        code = given if isinstance(given, int) else int(given is not None)
        if code in _ENDED:
            print(f"{_ENDED[code]}: what is finished is kept, the same command goes on from there", file=sys.stderr)
        return code
    except EdgekitError as error:
        _show_error(error, words)
        return error.exit_code
    except Exception as error:
        if os.environ.get("EDGEKIT_TRACEBACK"):
            raise
        _show_error(_unexpected(error), words)
        return 1


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: temporary files and the lock are removed on the way out."""

    def end(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unexpected(error: Exception) -> EdgekitError:
    """The system's refusals in its own words; anything else is a bug, and said to be one."""
    from edgekit.errors import EdgekitError

    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return EdgekitError(f"{where}{error.strerror or error}")
    return EdgekitError(
        f"{type(error).__name__}: {error}",
        why="edgekit did not expect this: it is a bug",
        fix="EDGEKIT_TRACEBACK=1 edgekit ...   shows where, for a bug report",
    )


def fix_for(words: Sequence[str], fix: str) -> str:
    """A fix as it helps after the command line `words`: it never names the command that has just failed.

    Of "edgekit CMD --flag value" the flags are left when CMD itself failed, and nothing when they were given already.
    """
    failed = next((word for word in words if word in COMMANDS), None)
    if failed is None or not (found := re.search(rf"\bedgekit {re.escape(failed)}(?![\w-])", fix)):
        return fix
    if not fix.startswith(found.group()):  # a sentence around it
        return f"{fix[: found.start()]}the same command{fix[found.end() :]}"
    flag = re.search(r"--[a-z]", fix)
    rest = fix[flag.start() :] if flag else ""
    return "" if rest in " ".join(words) else rest


def _show_error(error: EdgekitError, words: Sequence[str]) -> None:
    """What, why and fix: as lines on stderr, or as JSON on stdout."""
    fix = fix_for(words, error.fix)
    if "--json" in words:
        import json

        print(json.dumps({"error": {"what": error.what, "why": error.why, "fix": fix}}))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error[/] {escape(error.what)}")
    if error.why:
        console.print(f"  why  {escape(error.why)}")
    if fix:
        console.print(f"  fix  [bold]{escape(fix)}[/]")
