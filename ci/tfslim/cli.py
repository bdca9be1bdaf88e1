"""The command line: one command per verb, each a few lines over a room.

Results go to standard output (with --json as JSON and nothing else), everything about the work to
standard error. Exit codes: 0 done; 1 a defect of tfslim; those of `errors.py` and `cli_report.py`;
130 interrupted.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click
from docker import DockerClient
from rich.console import Console, Group, RenderableType
from rich.text import Text

from tfslim import (
    __version__,
    cli_action,
    cli_bench,
    cli_build,
    cli_coldstart,
    cli_explain,
    cli_pack,
    cli_pins,
    cli_report,
    cli_slim,
    cli_trace,
    cli_verify,
    doctor,
    pipeline,
)
from tfslim.bench import coldtext, explain_text
from tfslim.config import Config, json_schema, load_config
from tfslim.engine import embedded
from tfslim.engine.engine import Engine, find_engine
from tfslim.errors import ConfigError, DiskError, EngineError, TfslimError
from tfslim.images.first_use import first_use_warnings
from tfslim.images.gpu_use import gpu_use
from tfslim.images.inspect import inspect_source
from tfslim.images.inspect_text import render_shared, render_text
from tfslim.images.repack import Repacking, repack_image
from tfslim.images.shared import inspect_shared
from tfslim.pack.read import unpack_tree
from tfslim.pack.write import LEVEL
from tfslim.parity.gate import verify
from tfslim.parity.tracing import trace_models
from tfslim.plan import Build, disk_bytes, make_plan, matrix
from tfslim.report import baseline, render
from tfslim.report.history import History
from tfslim.report.record import RunRecord, record_schema
from tfslim.slim.archs import parse_targets
from tfslim.slim.rules import Margin, profile_names
from tfslim.slim.rules_text import rules_markdown
from tfslim.slim.serving import DEFAULT_GPUS
from tfslim.slim.trace import Trace
from tfslim.ui import Ui, human_bytes

__all__ = ["cli", "main"]

EXIT_INTERRUPTED = 130
_F = TypeVar("_F", bound=Callable[..., object])


@dataclass(frozen=True)
class _Common:
    """What every verb knows."""

    config_path: Path | None
    json: bool
    ui: Ui

    @property
    def config(self) -> Config:
        return load_config(self.config_path)

    def show(self, data: object, text: RenderableType) -> None:
        """Print a result: data with --json, else text."""
        if self.json:
            click.echo(json.dumps(data, indent=2, default=str))
        else:
            width = None if sys.stdout.isatty() else 160
            shown = Text(text) if isinstance(text, str) else text  # no markup is read from it
            Console(highlight=False, width=width, soft_wrap=isinstance(text, str)).print(shown)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_setup_option = click.option(
    "--setup-engine",
    is_flag=True,
    help="Without a Docker engine, set one up in a private folder (needs root). What has to be "
    "installed is named first.",
)


def _verb(function: _F) -> _F:
    """Give a verb --json and hand it the common values as its first argument."""

    @click.pass_context
    def call(context: click.Context, /, as_json: bool, **options: Any) -> object:
        common: _Common = replace(context.obj, json=as_json)
        return function(common, **options)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return _json_option(call)  # type: ignore[return-value]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with `tfslim doctor`, then `tfslim bench --setup-engine`. Every verb has --help.",
)
@click.version_option(__version__, prog_name="tfslim")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration; tfslim.yaml in this folder if there is one, else the defaults.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors and the result.")
@click.pass_context
def cli(context: click.Context, config: Path | None, quiet: bool) -> None:
    """Small, fast-starting GPU TensorFlow images, measured and proved."""
    context.obj = _Common(config, False, Ui(quiet=quiet))


@cli.command("doctor")
@_verb
def doctor_verb(common: _Common) -> None:
    """Say what this machine can do: engine, buildx, caches, GPU, disk; each with the way out."""
    config = common.config
    needed = disk_bytes(make_plan(config))
    found: Engine | TfslimError
    try:
        found = find_engine(common.ui, setup=False, make_builder=False)
    except TfslimError as error:
        found = error
    checks = doctor.diagnose(found, disk_bytes=needed, builder=config.builder)
    common.show([check.as_dict() for check in checks], _checks_text(checks))
    if any(check.status == "fail" for check in checks):
        sys.exit(EngineError.exit_code)


@cli.command("plan")
@click.argument("variants", nargs=-1)
@_verb
def plan_verb(common: _Common, variants: tuple[str, ...]) -> None:
    """Show what would be built, without building or downloading anything.

    With --json it is a strategy.matrix for GitHub Actions.
    """
    builds = make_plan(common.config, variants)
    lines = [_plan_lines(build) for build in builds]
    lines.append(f"about {human_bytes(disk_bytes(builds))} of disk for all of them")
    common.show(matrix(builds), "\n".join(lines))


@cli.command("build")
@click.argument("variants", nargs=-1)
@_setup_option
@cli_build.options
@_verb
def build_verb(
    common: _Common, variants: tuple[str, ...], setup_engine: bool, wish: cli_build.Wish
) -> None:
    """Build images: all of the configuration's, or the VARIANTS named; --push sends them on.

    \b
    tfslim build inference
    tfslim build inference --push-to ghcr.io/org/models --tag 1.2
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    config = wish.over(common.config)
    builds = make_plan(config, variants)
    line = pipeline.Line(config, builds, common.ui, setup_engine=setup_engine)
    result = cli_build.perform(line, wish)
    for warning in first_use_warnings(line.engine.client, result.built):
        common.ui.warn(warning)
    common.show(result.as_data(), "\n".join(result.lines()))


@cli.command("inspect")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option(
    "--cuda-arch",
    metavar="ARCHS",
    help="Say which modules these GPUs can run, would compile at first use, or cannot run (else: "
    "the usual GPUs), and what `tfslim slim` would save for them.",
)
@click.option(
    "--shared", is_flag=True, help="Of several images: which layers they share, what each adds."
)
@_verb
def inspect_verb(
    common: _Common, sources: tuple[str, ...], cuda_arch: str | None, shared: bool
) -> None:
    """Measure an image, an archive or a folder: pull and disk bytes, by layer, package and kind.

    SOURCE is an image of the engine, a docker or OCI archive, an OCI layout, or any folder such as
    a virtual environment.
    """
    client = _client(common.ui)
    if shared:
        together = inspect_shared(sources, client=client, ui=common.ui)
        common.show(together.model_dump(mode="json"), render_shared(together))
        return
    if len(sources) > 1:
        raise ConfigError(
            f"{len(sources)} sources were named", way_out="Name one, or add --shared to compare."
        )
    (source,) = sources
    gpus = parse_targets(cuda_arch).sms if cuda_arch else DEFAULT_GPUS
    probe = partial(gpu_use, gpus=gpus)
    found = inspect_source(source, client=client, gpu=probe, ui=common.ui)
    data = found.model_dump(mode="json")
    shown = [render_text(found)]
    if cuda_arch:
        plan = cli_slim.dry_run(cli_slim.Request(source, cuda_arch, "arch"), client, common.ui)
        data["would_save"] = {"cuda_arch": cuda_arch, "profile": "arch", "disk_bytes": plan.saved}
        shown.append(Text("\n".join(plan.explain()[:2])))
    common.show(data, Group(*shown))


_model_option = click.option(
    "--model",
    "models",
    multiple=True,
    metavar="PATH",
    help="Trace this model: SavedModel folder, .keras file, or demo:basic-pitch; repeat it for "
    "more.",
)
_trace_input_option = click.option(
    "--trace-input",
    "trace_inputs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=".npz file of real inputs, by input name; repeat it for more.",
)


@cli.command("slim")
@click.argument("source")
@click.option(
    "--cuda-arch",
    metavar="ARCHS",
    help="GPUs that stay served: 90, 80,86,90, native (this machine's) or all-major.",
)
@click.option(
    "--profile",
    type=click.Choice(profile_names()),
    default="arch",
    show_default=True,
    help="safe: what no program opens; arch: also GPU code for other architectures; inference: "
    "also what serving never uses; workload: also what the traced models never reach.",
)
@click.option(
    "--keep-ptx/--no-keep-ptx",
    default=None,
    help="Keep one PTX for newer GPUs; by default only for all-major.",
)
@click.option(
    "--keep", multiple=True, metavar="RULE", help="Do not follow this rule; --explain names them."
)
@click.option("--also", multiple=True, metavar="RULE", help="Follow this optional rule, too.")
@click.option(
    "--aot",
    is_flag=True,
    help="Compile ahead of time what these GPUs would compile at first use (docs/aot.md); the same "
    "as --also aot.",
)
@click.option(
    "--ptxas",
    metavar="PATH",
    help="Compiler for --aot, in place of the one in SOURCE; own: that of an image, run here.",
)
@click.option(
    "--aot-cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where compiled code is kept; by default ~/.cache/tfslim/aot.",
)
@click.option(
    "--recompress",
    type=click.Choice(["zstd"]),
    help="Store kept GPU code anew, for drivers from 570.26 on (checked at start); the same as "
    "--also zstd.",
)
@_model_option
@_trace_input_option
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What models reach, made with `tfslim trace`; repeat it for more.",
)
@click.option("--save-trace", type=click.Path(path_type=Path), help="Write the trace that is used.")
@click.option(
    "--margin",
    type=click.Choice(get_args(Margin)),
    default="package",
    show_default=True,
    help="Modules that go with profile workload: in packages of which no traced model reached "
    "anything; every file not reached; none.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="New folder, or archive.")
@click.option("-t", "--tag", help="Reference of the new image.")
@click.option("--in-place", is_flag=True, help="Change the folder itself, file by file.")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "gzip"]),
    default="zstd",
    show_default=True,
    help="Of an image's rewritten layers.",
)
@click.option("--level", type=int, help="Of the compression; by default 10 for zstd, 6 for gzip.")
@click.option(
    "--host-code",
    type=click.Choice(get_args(cli_slim.HostCode)),
    default="whole",
    show_default=True,
    help="cold: TensorFlow's code that models rarely run lies compressed beside it, and comes back "
    "when it is touched. Needs a C compiler and libzstd-dev here.",
)
@click.option(
    "--gate/--no-gate",
    default=True,
    show_default=True,
    help="Compare the answers of an image of the engine with those of what it became; if they "
    "differ, there is no new image.",
)
@click.option("--dry-run", is_flag=True, help="Make the plan, change nothing; --json saves it.")
@click.option("--plan", "saved_plan", type=click.Path(path_type=Path), help="A plan saved earlier.")
@click.option("--explain", is_flag=True, help="Name every removal: bytes, rule, why, proof.")
@click.option("--emit-dockerfile", is_flag=True, help="Print the stage that does it in a build.")
@_verb
def slim_verb(
    common: _Common, explain: bool, dry_run: bool, emit_dockerfile: bool, **options: Any
) -> None:
    """Make a folder or an image smaller: remove GPU code it cannot run, and prove the rest.

    SOURCE is a virtual environment or any folder, an image of the engine, or a docker or OCI
    archive. A folder needs --output or --in-place, an image needs --tag.

    \b
    tfslim slim .venv --cuda-arch native --dry-run --explain
    tfslim slim .venv --cuda-arch 90 --in-place
    tfslim slim my/model:1.2 --cuda-arch 80,90 --tag my/model:1.2-slim
    tfslim slim .venv --cuda-arch 90 --profile workload --model my_model --output .venv-slim
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    request = cli_slim.Request(**options)
    if emit_dockerfile:
        click.echo(cli_slim.dockerfile_stage(request))
        return
    client = _client(common.ui)
    if dry_run:
        plan = cli_slim.dry_run(request, client, common.ui)
        lines = plan.explain()
        common.show(json.loads(plan.model_dump_json()), "\n".join(lines if explain else lines[:2]))
        return
    result = cli_slim.perform(request, client, common.ui)
    lines = [*(result.plan.explain() if explain else []), *cli_slim.summary(result)]
    common.show(result.model_dump(mode="json"), "\n".join(lines))
    error = result.error()
    if error is not None:
        raise error


@cli.group("trace", cls=cli_trace.TraceGroup)
def trace_group() -> None:
    """Record what models reach, for `tfslim slim --profile workload --trace FILE`.

    \b
    tfslim trace .venv --model my_model --trace-input sample.npz -o trace.json
    tfslim trace my/image:1.2 --model demo:basic-pitch -o trace.json
    tfslim trace merge one.json other.json -o trace.json
    """  # noqa: D301 (click takes a backspace as "do not wrap")


_trace_output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the trace."
)


@trace_group.command("run")
@click.argument("source")
@_model_option
@_trace_input_option
@click.option("--batch", default="1,3", show_default=True, help="Batch sizes.")
@click.option(
    "--gpu", type=click.Choice(["auto", "off", "required"]), default="auto", show_default=True
)
@_trace_output_option
@_verb
def trace_run(common: _Common, source: str, output: Path | None, **options: Any) -> None:
    """Run models in SOURCE, a stock tree or image, and record what they reach.

    Every signature is run with made-up inputs of each batch size, with wrong ones, and with those
    of --trace-input. Nobody else should use the tree meanwhile: what they open is recorded, too.
    """
    request = cli_trace.request(source, **options)
    _show_trace(common, trace_models(request, _client(common.ui), common.ui), output)


@trace_group.command("merge")
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@_trace_output_option
@_verb
def trace_merge(common: _Common, traces: tuple[Path, ...], output: Path | None) -> None:
    """Make one trace of everything that several TRACES reached."""
    _show_trace(common, cli_trace.merged(traces), output)


@cli.command("repack")
@click.argument("source", metavar="IMAGE|ARCHIVE")
@click.option("-t", "--tag", help="Name of the packed image; by default IMAGE keeps its own.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write an archive, load nothing."
)
@click.option(
    "--level",
    type=click.IntRange(1, 22),
    default=19,
    show_default=True,
    help="Of zstd. 10 takes a fifth of the time of 19, and gets half of the gain.",
)
@_verb
def repack_verb(
    common: _Common, source: str, tag: str | None, output: Path | None, level: int
) -> None:
    """Pack an image's layers again, smaller: the same files, the same image ID, less to pull.

    Layers are packed by zstd with a window of 128 MB, which finds what is alike in GPU libraries;
    Docker, containerd, Podman and CRI-O unpack it. Push the archive with skopeo or crane, or the
    image with docker push where the engine keeps images in containerd's store (a classic store
    packs layers anew for each push).

    \b
    tfslim repack my/model:1.2
    tfslim repack my/model:1.2 --level 22 --output model.tar
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    how = Repacking(tag=tag, output=output, level=level)
    packed = repack_image(source, how, client=_client(common.ui), ui=common.ui)
    change = cli_slim.change(packed.target, packed.before_bytes, packed.after_bytes, "in layers")
    common.show(packed.model_dump(mode="json"), f"{change}\n{packed.manifest_digest}")


@cli.command("pack")
@click.argument("source", metavar="TREE|IMAGE|ARCHIVE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the pieces and their manifest.",
)
@click.option(
    "--piece",
    default="60MB",
    show_default=True,
    callback=cli_pack.piece_size,
    metavar="SIZE",
    help="Largest size of a piece.",
)
@click.option(
    "--level", type=click.IntRange(1, 22), default=LEVEL, show_default=True, help="Of zstd."
)
@_verb
def pack_verb(common: _Common, source: str, output: Path, piece: int, level: int) -> None:
    """Pack a slimmed tree into checksummed pieces that can be carried to a machine by hand.

    Pieces that are there already and right are left as they are, so an interrupted run goes on.
    """
    client = _client(common.ui)
    packed = cli_pack.pack_source(
        source, output, piece_bytes=piece, level=level, client=client, ui=common.ui
    )
    common.show(cli_pack.as_data(packed), cli_pack.packed_text(packed, output))


@cli.command("unpack")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--digest", default="", help="SHA-256 of the manifest, as `tfslim pack` printed it.")
@_verb
def unpack_verb(common: _Common, folder: Path, dest: Path, digest: str) -> None:
    """Put a packed tree back; needs no engine and no network.

    Nothing is unpacked before every piece has its digest; DEST appears when every file has its own.
    """
    unpacked = unpack_tree(folder, dest, expected=digest, ui=common.ui)
    common.show(cli_pack.as_data(unpacked), cli_pack.unpacked_text(unpacked, dest))


@cli.command("verify")
@click.argument("stock")
@click.argument("slim")
@click.option(
    "--model",
    multiple=True,
    metavar="PATH",
    help="SavedModel folder, .keras file, or demo:basic-pitch; repeat it for more. Without it a "
    "zoo of small models of many kinds, made by STOCK.",
)
@click.option(
    "--input",
    "input_files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=".npz file of real inputs, by input name; repeat it for more.",
)
@click.option("--batch", default="1,3", show_default=True, help="Batch sizes.")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=2, show_default=True, help="Made-up inputs."
)
@click.option(
    "--unknown-size",
    type=click.IntRange(0, 1 << 20),
    default=32,
    show_default=True,
    help="Size of unknown dimensions other than the batch.",
)
@click.option("--rtol", type=click.FloatRange(0), help="Relative tolerance in place of the rule's.")
@click.option("--atol", type=click.FloatRange(0), help="Absolute tolerance in place of the rule's.")
@click.option(
    "--gpu", type=click.Choice(["auto", "off", "required"]), default="auto", show_default=True
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "tensorflow", "capi"]),
    default="auto",
    show_default=True,
    help="What asks SLIM: Python's TensorFlow, TensorFlow's C API as the service's native backend "
    "does, or that where slimming left nothing else.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="Seconds for one model on one side.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the verdict."
)
@_verb
def verify_verb(
    common: _Common, stock: str, slim: str, output: Path | None, **options: Any
) -> None:
    """Prove that SLIM answers as STOCK does: same models and inputs through both, all compared.

    Each is a virtual environment, an unpacked root file system, or an image of the engine. Values
    have to agree bit for bit on a CPU and under deterministic ops, within a tolerance on a GPU
    otherwise; errors have to be the same errors. Exit code 0: passed; 11: failed; 21: inconclusive.

    \b
    tfslim verify .venv .venv-slim
    tfslim verify my/model:1.2 my/model:1.2-slim --model ./my_model --input sample.npz
    tfslim verify .venv .venv-slim --model demo:basic-pitch --batch 1,8 --output verdict.json
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    request = cli_verify.request(stock, slim, **options)
    verdict = verify(request, _client(common.ui), common.ui)
    if output is not None:
        cli_verify.write(verdict, output)
        common.ui.note(f"written: {output}")
    common.show(verdict.model_dump(mode="json"), cli_verify.render(verdict))
    error = cli_verify.error_of(verdict)
    if error is not None:
        raise error
    if verdict.outcome == "inconclusive":
        sys.exit(cli_verify.EXIT_INCONCLUSIVE)


@cli.command("pins")
@click.option("--tensorflow", metavar="VERSION", help="Overrides the configuration's.")
@click.option("--python", metavar="VERSION", help="Overrides the configuration's, such as 3.13.")
@click.option(
    "--cuda-arch",
    multiple=True,
    metavar="ARCHS",
    help="GPUs to be small for: 90 or 80,86,90; repeat it for a lock for each.",
)
@click.option(
    "--profile", type=click.Choice(profile_names()), default="inference", show_default=True
)
@click.option("--keep", multiple=True, metavar="RULE", help="As for `tfslim slim`.")
@click.option("--also", multiple=True, metavar="RULE", help="As for `tfslim slim`.")
@click.option(
    "--objective",
    type=click.Choice(["both", "pull", "disk"]),
    default="both",
    show_default=True,
    help="Smallest when compressed, on disk, or in time to pull and unpack.",
)
@click.option(
    "--exclude", multiple=True, metavar="VERSIONS", help="Not these, for example 'cudnn<9.10'."
)
@click.option(
    "--requirements",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Locked together with TensorFlow; the service's own if not given.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The lock, or a folder for locks with their usual names; dockerfiles/locks in a checkout.",
)
@click.option("--all", "all_versions", is_flag=True, help="Measure every version, not a few.")
@click.option("--keep-wheels", is_flag=True, help="Leave the wheels in .tfslim/pins (gigabytes).")
@click.option(
    "--gate/--no-gate",
    default=True,
    show_default=True,
    help="Install the chosen set and refuse it if TensorFlow does not work as with the newest.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="An environment with the newest versions, for the gate; made if not given.",
)
@click.option("--dry-run", is_flag=True, help="Measure and choose; try and write nothing.")
@_verb
def pins_verb(common: _Common, **options: Any) -> None:
    """Choose the NVIDIA wheels that are smallest after slimming; write a lock with hashes.

    Every version that TensorFlow allows is measured (gigabytes are downloaded, one wheel at a
    time; a second run takes seconds), and a set is taken that goes together.

    \b
    tfslim pins --cuda-arch 90 --dry-run
    tfslim pins --tensorflow 2.21.0 --python 3.13 --cuda-arch 80 --cuda-arch 90 -o locks/
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    chosen = cli_pins.run(cli_pins.Options(**options), common.config, common.ui)
    common.show(cli_pins.as_data(chosen), cli_pins.render(chosen))


@cli.command("bench")
@click.argument("names", nargs=-1)
@_setup_option
@cli_bench.options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("tfslim-report"),
    show_default=True,
    help="Folder for report.json and report.md.",
)
@cli_coldstart.options
@cli_explain.options
@_verb
def bench_verb(
    common: _Common,
    *,
    names: tuple[str, ...],
    setup_engine: bool,
    output: Path,
    wish: cli_bench.Wish,
    cold: cli_coldstart.ColdOptions | None,
    explain: cli_explain.ExplainOptions | None,
) -> None:
    """Build, inspect and measure images; print one table and write report.md and report.json.

    NAMES are variants, which are built first: all of the configuration's if none is given. Or they
    are images of the engine, archives, unpacked images and virtual environments that are there:
    these are measured side by side, and compared with the first one.

    \b
    tfslim bench stock inference
    tfslim bench my/model:1.2 my/model:1.2-slim --launches 10
    tfslim bench --runtime rootfs stock.tar ./slim-rootfs
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    if explain is not None:
        client = _client(common.ui)
        told = cli_explain.perform(explain, client, launches=wish.launches, ui=common.ui)
        common.show(told.model_dump(mode="json"), explain_text.terminal(told))
        return
    config = wish.over(common.config)
    if cold is None and wish.only == "cold-start":
        cold = cli_coldstart.ColdOptions()
    if cold is not None:
        result = cli_coldstart.perform(
            config,
            names,
            cold,
            launches=wish.launches,
            folder=output,
            setup_engine=setup_engine,
            ui=common.ui,
        )
        common.show(result.model_dump(mode="json"), coldtext.terminal(result))
        return
    if cli_bench.wants_sources(names, wish):
        record = cli_bench.measure_sources(
            names, config, wish, setup_engine=setup_engine, ui=common.ui
        )
        cli_bench.keep_verdicts(record, config.bench.margin, output)
        if not common.json:
            common.show(None, cli_bench.verdicts(record, config.bench.margin))
    else:
        line = pipeline.Line(config, make_plan(config, names), common.ui, setup_engine=setup_engine)
        record = cli_bench.measure_variants(line, wish, output)
    _publish(common, record, output)


@cli.command("report")
@click.argument("runs", nargs=-1, metavar="[RUN.json…]", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    metavar="WHAT",
    help="Compare with it: a record, a folder or zip of an artifact, git:REF or git:REF:PATH; "
    "none: with nothing. The configuration's `baseline` if not given.",
)
@click.option("--history", metavar="PLACE", help="Add the runs of a folder or git:BRANCH:PATH.")
@click.option("--strict", is_flag=True, help="A budget whose measure is missing counts as broken.")
@click.option(
    "--allow-inconclusive", is_flag=True, help="Exit with 0 where the samples cannot tell."
)
@click.option("--all", "whole", is_flag=True, help="Print every section, not the table alone.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of a record, and nothing else.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report: Markdown, HTML, plots, JSON, dashboards; only printed without it.",
)
@_verb
def report_verb(
    common: _Common,
    *,
    runs: tuple[Path, ...],
    history: str | None,
    whole: bool,
    schema: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Show a run from its record, and hold it against its budgets and a baseline.

    RUN.json is tfslim-report/report.json if not given; several are parts of one run. Exit code 20:
    a budget is broken; 22: worse than the baseline; 21: perhaps, and the samples cannot tell.

    \b
    tfslim report --baseline git:main
    tfslim report run.json --baseline artifact.zip --history git:results:runs -o report/
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    if schema:
        click.echo(json.dumps(record_schema(), indent=2))
        return
    record = cli_report.read_runs(runs or (Path(baseline.DEFAULT_PATH),))
    past = cli_report.read_history(history) if history else None
    _publish(common, record, output, cli_report.Options(**options), history=past, whole=whole)


@cli.command("history")
@click.argument("place")
@click.option("--variant", default="*", metavar="PATTERN", help="These alone, such as inference*.")
@click.option("--measure", default="*", metavar="PATTERN", help="These alone, such as cold-start*.")
@click.option("--details", is_flag=True, help="Phases of starts, too.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for history.json and the plots.",
)
@_verb
def history_verb(
    common: _Common, *, place: str, variant: str, measure: str, details: bool, output: Path | None
) -> None:
    """Show each measure over many runs, and where it changed for good.

    PLACE is a folder of records, a zip, git:BRANCH or git:BRANCH:FOLDER. Times of different
    machines are different series.

    \b
    tfslim history benchmarks/results
    tfslim history git:results:runs --variant inference --measure 'cold-start*' -o history/
    """  # noqa: D301 (click takes a backspace as "do not wrap")
    found = cli_report.read_history(place)
    found = cli_report.chosen(found, variant, measure, details=details)
    if output is not None:
        cli_report.write_history(found, output, common.ui)
    common.show(found.model_dump(mode="json"), cli_report.render_history(found))


@cli.group("engine")
def engine_group() -> None:
    """The embedded engine: a private Docker engine for machines that have none."""


@engine_group.command("up")
@click.pass_obj
def engine_up(common: _Common) -> None:
    """Set the embedded engine up and start it."""
    click.echo(embedded.up(common.ui).host)


@engine_group.command("down")
@click.pass_obj
def engine_down(common: _Common) -> None:
    """Stop the embedded engine; images and caches stay."""
    embedded.down(common.ui)


@engine_group.command("purge")
@click.confirmation_option(prompt="Delete the embedded engine with all its images and caches?")
@click.pass_obj
def engine_purge(common: _Common) -> None:
    """Stop the embedded engine and delete it with all its images and caches."""
    embedded.purge(common.ui)


@engine_group.command("status")
@_verb
def engine_status(common: _Common) -> None:
    """Say whether the embedded engine is set up and running, and the disk it takes."""
    status = embedded.status()
    state = f"running, pid {status.pid}" if status.running else "not running"
    text = f"{status.home}: {state}, {human_bytes(status.disk_bytes)}"
    common.show(asdict(status), text)


cli.add_command(cli_action.action_group)


@cli.group("config")
def config_group() -> None:
    """The configuration file."""


@cli.command("rules")
def rules_verb() -> None:
    """Print what each slim profile takes out, why, and at what risk, as Markdown."""
    click.echo(rules_markdown())


@config_group.command("schema")
def config_schema() -> None:
    """Print the JSON schema of tfslim.yaml."""
    click.echo(json.dumps(json_schema(), indent=2))


@config_group.command("show")
@click.pass_obj
def config_show(common: _Common) -> None:
    """Print the configuration in force, defaults included."""
    click.echo(common.config.model_dump_json(by_alias=True, indent=2))


def main() -> None:
    """Run the command line; turn errors into one screen and an exit code."""
    ui = Ui()
    # A polite kill cleans up as ctrl-C does: temporary folders, containers, child processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TfslimError as error:
        _fail(ui, error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(ui, DiskError("the disk is full", why=str(error), way_out="Free some and run again."))
    except (KeyboardInterrupt, click.Abort):
        ui.print("interrupted; what was finished is kept, nothing half-written is left", "yellow")
        sys.exit(EXIT_INTERRUPTED)


def _client(ui: Ui) -> Callable[[], DockerClient]:
    """Return what gives a client of the engine, for verbs that need one for images only."""

    @cache
    def engine() -> Engine:  # looked for once, when it is needed
        return find_engine(ui, setup=False, make_builder=False)

    return lambda: engine().client()


def _fail(ui: Ui, error: TfslimError) -> NoReturn:
    """Show an error, as JSON too where that was asked for, and exit with its code."""
    if "--json" in sys.argv:
        click.echo(json.dumps(error.as_dict(), indent=2))
    ui.error(error)
    sys.exit(error.exit_code)


def _show_trace(common: _Common, trace: Trace, output: Path | None) -> None:
    """Write a trace where that was asked for, and show it in a few lines."""
    if output is not None:
        trace.save(output)
        common.ui.note(f"written: {output}")
    common.show(trace.model_dump(mode="json"), "\n".join(trace.describe()))


def _publish(
    common: _Common,
    record: RunRecord,
    output: Path | None,
    options: cli_report.Options | None = None,
    *,
    history: History | None = None,
    whole: bool = False,
) -> None:
    """Print a record, write its files, and exit as budgets and baseline say."""
    held = cli_report.hold(record, common.config, options or cli_report.Options())
    if output is not None:
        cli_report.write_files(held, output, history, common.ui)
    text = render.terminal(held.record, held.comparison, budgets=held.budgets, whole=whole)
    common.show(held.as_data(), text)
    for reason in held.why:
        common.ui.warn(reason)
    if held.exit_code:
        sys.exit(held.exit_code)


def _checks_text(checks: list[doctor.Check]) -> Text:
    """Return the checks one below the other, each with its way out."""
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    text = Text()
    for check in checks:
        text.append(f"{check.status:5}", styles[check.status])
        text.append(f"{check.name}: {check.detail}\n")
        for line in check.way_out.splitlines():
            text.append(f"       → {line}\n", "dim")
    return text


def _plan_lines(build: Build) -> str:
    cuda = f"CUDA {build.cuda} in the base" if build.cuda else "CUDA from wheels"
    return (
        f"{build.variant:17}{build.tag}\n"
        f"{'':17}TensorFlow {build.tensorflow}, Python {build.python}, {cuda}, "
        f"GPU architectures {', '.join(build.cuda_archs)}\n"
        f"{'':17}from {', '.join(build.bases)}\n"
        f"{'':17}packages: {f'as in {build.lock}' if build.lock else 'the newest that fit'}"
    )
