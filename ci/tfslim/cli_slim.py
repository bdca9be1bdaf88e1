"""`tfslim slim`: what a person names, turned into a plan, carried out on a tree or an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from tfslim import cli_trace, cli_verify
from tfslim.errors import ConfigError, SlimError, TfslimError
from tfslim.images.inspect import source_kind
from tfslim.images.rewrite import Rewriting, Rewritten
from tfslim.images.slim_image import plan_image, slim_image
from tfslim.parity import gate
from tfslim.parity.touching import touched_pages
from tfslim.parity.tracing import trace_models
from tfslim.parity.verdict import Verdict
from tfslim.slim import plan as plans
from tfslim.slim import trace as traces
from tfslim.slim.aot.settings import Settings, default_cache
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.cold.apply import ColdCode, put_aside
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import Margin, Policy, make_policy
from tfslim.slim.trace import Trace
from tfslim.ui import Ui, human_bytes

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["HostCode", "Request", "Result", "dockerfile_stage", "dry_run", "perform", "summary"]

HostCode = Literal["whole", "cold"]
AOT: Final = "aot"
OWN_PTXAS: Final = "own"
_STATE = Path(".tfslim")
_CACHE_IN_BUILD = "/var/cache/tfslim-aot"


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        source: A folder, an archive, an OCI layout or an image of the engine.
        cuda_arch: GPUs to serve, as `--cuda-arch` takes them; None for profiles that need none.
        profile: Name of the rules.
        keep_ptx: Keep one PTX for GPUs not named; None follows the GPUs' own default.
        keep: Words of rules that are not followed.
        also: Words of optional rules that are.
        models: Models to trace first, for profile workload.
        trace_inputs: Files with real inputs for them.
        traces: Traces made earlier, used as well.
        save_trace: Where to write the trace that is used.
        margin: How far from what was reached an unreached file must lie to go.
        saved_plan: A plan saved earlier, in place of a new one.
        output: New folder (from a folder) or archive (from an image).
        tag: Reference of the new image.
        in_place: Change the folder itself.
        compression: Of an image's rewritten layers.
        level: Of that compression; None takes its default.
        host_code: cold: keep the host code that models rarely run compressed, and bring it back
            when it is touched.
        gate: Compare an image of the engine with what it became, and take that back if it answers
            differently.
        aot: Compile PTX ahead of time; the same as the word "aot" in `also`.
        ptxas: The compiler for that: a path, or "own" for the one in the source. None: a folder's
            own; none of an image.
        aot_cache: Folder that compiled code is kept in; None: in the user's cache folder.
        recompress: The same as the word "zstd" in `also`.
    """

    source: str
    cuda_arch: str | None
    profile: str
    keep_ptx: bool | None = None
    keep: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    trace_inputs: tuple[Path, ...] = ()
    traces: tuple[Path, ...] = ()
    save_trace: Path | None = None
    margin: Margin = "package"
    saved_plan: Path | None = None
    output: Path | None = None
    tag: str | None = None
    in_place: bool = False
    compression: Literal["zstd", "gzip"] = "zstd"
    level: int | None = None
    host_code: HostCode = "whole"
    gate: bool = True
    aot: bool = False
    ptxas: str | None = None
    aot_cache: Path | None = None
    recompress: Literal["zstd"] | None = None

    @property
    def optional(self) -> tuple[str, ...]:
        """Words of optional rules to follow: `also`, and those that have an option of their own."""
        named = {AOT: self.aot, "zstd": self.recompress == "zstd"}
        return tuple(dict.fromkeys((*self.also, *(word for word in named if named[word]))))

    def settings(self) -> Settings:
        """Return how PTX is compiled ahead of time.

        Raises:
            ConfigError: Something of an image would have to be run here, and nobody said it may.
        """
        if AOT in self.optional and not self.is_tree and self.ptxas is None:
            raise ConfigError(
                "the compiler of an image would run on this machine",
                why="--aot compiles with ptxas, and the image's own is a program of the image.",
                way_out="If you trust the image: --ptxas own. Else one of yours: --ptxas PATH\n"
                "(pip install --target /tmp/nvcc nvidia-cuda-nvcc-cu12, then "
                "/tmp/nvcc/nvidia/cuda_nvcc/bin/ptxas).",
            )
        given = None if self.ptxas in (None, OWN_PTXAS) else Path(self.ptxas or "")
        return Settings(given, self.aot_cache or default_cache())

    def policy(self, trace: Trace | None = None) -> Policy:
        """Return the rules to follow, given what models were seen to reach.

        Raises:
            TfslimError: See `archs.parse_targets` and `rules.make_policy`.
        """
        return make_policy(
            self.profile,
            parse_targets(self.cuda_arch) if self.cuda_arch else None,
            keep_ptx=self.keep_ptx,
            keep=self.keep,
            also=self.optional,
            trace=trace,
            margin=self.margin,
            aot=self.settings(),
        )

    def trace(self, client: Callable[[], DockerClient], ui: Ui) -> Trace | None:
        """Return what models reach: those named now, and those traced before; None without any.

        Raises:
            TfslimError: See `tracing.trace_models`, `trace.load` and `trace.merge`.
        """
        found = [traces.load(place) for place in self.traces]
        if self.trace_inputs or (self.models and not self.models_run_only):
            # A wrong option is told before minutes are spent.
            self.policy(Trace(ops=frozenset(), opened=frozenset()))
            wanted = cli_trace.request(
                self.source, models=self.models, trace_inputs=self.trace_inputs
            )
            found.append(trace_models(wanted, client, ui))
        if not found:
            return None
        trace = traces.merge(found)
        if self.save_trace is not None:
            trace.save(self.save_trace)
        return trace

    @property
    def models_run_only(self) -> bool:
        """True where models are given only to see which host code they run."""
        return self.host_code == "cold" and self.profile != "workload"

    @property
    def is_tree(self) -> bool:
        """True for a plain folder."""
        return source_kind(self.source) == "directory"


class Result(BaseModel):
    """What was planned, what came of it, and the image it became (None for a folder).

    `gate` is the comparison of both images, or the reason why there was none.
    """

    model_config = ConfigDict(frozen=True)

    plan: Plan
    outcome: Outcome
    image: Rewritten | None
    host_code: tuple[ColdCode, ...] = ()
    gate: Verdict | str

    def error(self) -> TfslimError | None:
        """Return what the run ends with: files or code that had to be left as they were."""
        refused = [f"{item.path}: {item.restored}" for item in self.host_code if item.restored]
        if refused and self.outcome.error() is None:
            return SlimError("host code could not be put aside", why="\n".join(refused))
        return self.outcome.error()


def dry_run(request: Request, client: Callable[[], DockerClient], ui: Ui) -> Plan:
    """Return the plan and change nothing.

    Raises:
        TfslimError: The source cannot be read, or the request cannot be met.
    """
    policy = request.policy(request.trace(client, ui))
    if request.is_tree:
        return make_plan(Path(request.source), policy, ui=ui)
    return plan_image(request.source, policy=policy, client=client, ui=ui)


def perform(request: Request, client: Callable[[], DockerClient], ui: Ui) -> Result:
    """Slim a tree or an image.

    Raises:
        ConfigError: It is not said where the result goes, or to a place it cannot go to.
        TfslimError: The source cannot be read, or the request cannot be met.
    """
    saved = plans.load(request.saved_plan) if request.saved_plan else None
    if request.is_tree:
        if request.in_place == (request.output is not None) or request.tag:
            raise ConfigError(
                "a folder is slimmed into --output DIR or --in-place, one of the two",
                way_out="Or look first: --dry-run.",
            )
        tree = Path(request.source)
        plan = saved or make_plan(tree, request.policy(request.trace(client, ui)), ui=ui)
        outcome = apply_plan(plan, tree, request.output, ui=ui)
        why = f"compare them with `tfslim verify {tree} {request.output}`"
        if request.output is None:
            why = "changed in place: there is nothing left to compare with"
        aside = put_host_code_aside(request, request.output or tree, ui)
        return Result(plan=plan, outcome=outcome, image=None, host_code=aside, gate=why)
    if not request.tag or request.in_place:
        raise ConfigError(
            "an image is slimmed into a new one: name it with --tag",
            way_out="With --output FILE.tar it is written as an archive under that name.",
        )
    done = slim_image(
        request.source,
        Rewriting(
            name=request.tag,
            output=request.output,
            created_by="tfslim slim",
            compression=request.compression,
            level=request.level,
        ),
        what=saved or request.policy(request.trace(client, ui)),
        client=client,
        then=lambda tree: put_host_code_aside(request, tree, ui),
        ui=ui,
    )
    compared = why_no_gate(request, done.plan) or _gate(request, request.tag, client, ui)
    return Result(
        plan=done.plan,
        outcome=done.outcome,
        image=done.rewritten,
        host_code=done.host_code,
        gate=compared,
    )


def put_host_code_aside(request: Request, tree: Path, ui: Ui) -> tuple[ColdCode, ...]:
    """Put host code of a slim tree aside where that was asked for.

    Raises:
        TfslimError: See `cold.apply.put_aside` and `touching.touched_pages`.
    """
    if request.host_code == "whole":
        return ()
    zoo = request.profile != "workload"

    def run() -> set[int]:
        return touched_pages(tree, request.models, _STATE, ui, zoo=zoo)

    return tuple(put_aside(tree, run, ui))


def why_no_gate(request: Request, plan: Plan) -> str:
    """Return why an image is not compared with what it became; empty where it is."""
    if not request.gate:
        return "switched off (--no-gate)"
    if request.output is not None or source_kind(request.source) != "engine":
        return "an archive does not run: load both, then `tfslim verify`"
    if not any("libtensorflow_" in item.path for item in plan.files):
        return "the plan changes no TensorFlow"
    if request.profile == "workload" and not request.models:
        return "only traces were given: name their models in `tfslim verify … --model`"
    return ""


def _gate(request: Request, tag: str, client: Callable[[], DockerClient], ui: Ui) -> Verdict:
    """Compare the image with what it became; what answers differently loses its name.

    Raises:
        VerifyError: It answers differently.
        TfslimError: See `parity.gate.verify`.
    """
    models = request.models if request.profile == "workload" else ()
    verdict = gate.verify(gate.Request(request.source, tag, models), client, ui)
    error = cli_verify.error_of(verdict)
    if error is not None:
        with closing(client()) as engine:
            engine.images.remove(tag, noprune=True)
        ui.print(str(cli_verify.render(verdict)))
        raise error
    return verdict


def summary(result: Result) -> list[str]:
    """Say in a few lines what came of it."""
    plan, outcome, image = result.plan, result.outcome, result.image
    lines = [
        change(
            image.target if image else outcome.tree,
            image.disk_bytes_before if image else outcome.tree_before,
            image.disk_bytes_after if image else outcome.tree_after,
            "on disk",
        )
    ]
    if image:
        before = sum(layer.before_bytes for layer in image.layers)
        after = sum(layer.after_bytes for layer in image.layers)
        lines.append(change(" " * len(image.target), before, after, "in layers as stored"))
        old = [layer for layer in image.layers if layer.before_digest]
        changed = f"{sum(layer.rewritten for layer in old)} of {len(old)} layers rewritten"
        new = ", one new" if len(old) < len(image.layers) else ""
        lines.append(f"{changed}{new}; {image.manifest_digest}")
    states = Counter(item.state for item in outcome.files)
    lines.append(
        f"{states['verified']} files rewritten and proved, {states['linked']} equal ones made "
        f"links, {states['deleted']} deleted, {states['replaced'] + states['added']} stand-ins put "
        f"in place, {states['restored']} left as they were because their proof failed"
    )
    lines += [
        f"{item.path}: its relative relocations stay as they were: {item.unpacked}"
        for item in outcome.files
        if item.unpacked
    ]
    if plan.unexplained_bytes:
        lines.append(f"unexplained: {human_bytes(plan.unexplained_bytes)}, left alone (--explain)")
    lines += plan.told()
    lines += [_aside(item) for item in result.host_code if not item.restored]
    lines.append(f"answers: {_answers(result.gate)}")
    return lines


def _aside(item: ColdCode) -> str:
    sizes = (item.before, item.after + item.side, item.hot, item.cold, item.packed)
    before, after, hot, cold, packed = map(human_bytes, sizes)
    return (
        f"{item.path}: {before} → {after}; code that models run {hot}, the rest {cold} in {packed}"
    )


def _answers(compared: Verdict | str) -> str:
    if isinstance(compared, str):
        return f"not compared: {compared}"
    names = ", ".join(model.name for model in compared.models)
    return f"compared, {compared.outcome} ({compared.reason}): {names}"


def change(what: str, before: int, after: int, measure: str) -> str:
    share = 1 - after / before if before else 0
    return f"{what}: {human_bytes(before)} → {human_bytes(after)} {measure} ({share:.0%} less)"


def dockerfile_stage(request: Request) -> str:
    """Return the Dockerfile stages that do the same inside a build.

    Raises:
        ConfigError: Models would have to be traced first.
    """
    if request.models:
        raise ConfigError(
            "models are traced before a build, not in it",
            way_out=f"tfslim trace {request.source} --model {request.models[0]} -o trace.json\n"
            "and then --trace trace.json in place of --model",
        )
    options = f"--profile {request.profile}"
    if request.cuda_arch:
        options = f"--cuda-arch {request.cuda_arch} {options}"
    if request.keep_ptx is not None:
        options += " --keep-ptx" if request.keep_ptx else " --no-keep-ptx"
    options += "".join(f" --keep {word}" for word in request.keep)
    own = {AOT: " --aot", "zstd": " --recompress zstd"}
    options += "".join(own.get(word, f" --also {word}") for word in request.optional)
    if request.host_code != "whole":
        options += f" --host-code {request.host_code}"
    mounts = ""
    if AOT in request.optional:
        mounts = f"    --mount=type=cache,target={_CACHE_IN_BUILD} \\\n"
        options += f" --aot-cache {_CACHE_IN_BUILD}"
    for number, place in enumerate(request.traces):
        mounts += f"    --mount=type=bind,source={place},target=/tmp/trace-{number}.json \\\n"
        options += f" --trace /tmp/trace-{number}.json"
    if request.traces:
        options += f" --margin {request.margin}"
    return f"""\
# Give the checkout of tfslim to the build as a context of that name:
#   docker buildx build --build-context tfslim=path/to/tfslim …
# The engine is mounted while it works, and is in no layer of the image.
FROM builder AS engine
RUN --mount=type=bind,from=tfslim,target=/src,rw \\
    python3 -m venv /opt/tfslim && /opt/tfslim/bin/pip install --no-cache-dir /src

# `builder` is your stage that holds {request.source}.
FROM builder AS slim
RUN --mount=type=bind,from=engine,source=/opt/tfslim,target=/opt/tfslim \\
{mounts}    /opt/tfslim/bin/tfslim slim {request.source} {options} --in-place

# In the final stage, in place of `COPY --from=builder`:
#   COPY --from=slim {request.source} {request.source}
"""
