"""Cold starts of stock, of stock by the usual recipe, and of the images that start fast.

    sudo python benchmarks/coldstart/compare.py

Builds what is missing (stock, inference and inference-native as `tfslim build` does, no-bytecode
from the Dockerfile beside this file), starts each 7 times with a cold and 7 times with a warm page
cache, in turn, pulls each once from a registry on loopback, and writes the results to
benchmarks/coldstart/results. An interrupted run goes on where it stopped.

Needs a Docker engine, root for cold page caches and pulls, and about 35 GB of free disk
(20 GB once everything is built; --hide: 10 GB less). Without room for a pull that pull alone is
left out, and the results say so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tfslim import cli_coldstart
from tfslim.bench import coldtext
from tfslim.bench.results import ColdStarts
from tfslim.bench.stats import ratio_of_medians
from tfslim.config import load_config
from tfslim.engine.engine import Engine
from tfslim.errors import BuildFailedError, TfslimError
from tfslim.pipeline import Line
from tfslim.plan import make_plan
from tfslim.ui import Ui

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPE = "no-bytecode"


def main() -> int:
    """Build, measure, write, print."""
    options = _options()
    ui = Ui()
    try:
        config = load_config(ROOT / "tfslim.yaml")
        variants = [name for name in options.subjects if name != RECIPE]
        line = Line(config, make_plan(config, variants), ui, setup_engine=True)
        images = {str(built.build.variant): built.build.tag for built in line.build()}
        if RECIPE in options.subjects:
            images[RECIPE] = build_recipe(line.engine, images["stock"], ui, hide=options.hide)
        result = cli_coldstart.perform(
            config,
            [f"{name}={images[name]}" for name in options.subjects],
            cli_coldstart.ColdOptions(pulls=options.pulls, cold_cache=options.cold_cache),
            launches=options.launches,
            folder=options.output,
            setup_engine=True,
            ui=ui,
        )
    except TfslimError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    console = Console(width=160, highlight=False)
    console.print(coldtext.terminal(result))
    console.print("\n".join(against_recipe(result)))
    return 0


def against_recipe(result: ColdStarts) -> list[str]:
    """Return how long each image takes to its first answer in times of the recipe's."""
    lines = []
    for page in ("cold", "warm"):
        times: dict[str, list[float]] = {}
        for one in result.launches:
            if one.page_cache == page:
                times.setdefault(one.subject, []).append(one.first_answer_s)
        for name, mine in times.items():
            ratio = ratio_of_medians(mine, times.get(RECIPE, []))
            if ratio is not None and name != RECIPE:
                span = f"({ratio.low:.2f}–{ratio.high:.2f})"
                lines.append(f"page cache {page}: {name} / {RECIPE} = {ratio.value:.2f} {span}")
    return lines


def build_recipe(engine: Engine, stock: str, ui: Ui, *, hide: bool) -> str:
    """Build stock without bytecode, or with a layer that hides it; return its tag.

    Raises:
        BuildFailedError: With the end of the build's log.
    """
    tag = stock.replace("/stock:", f"/{RECIPE}:")
    packed = "compression=zstd,compression-level=3,force-compression=true,oci-mediatypes=true"
    # An engine's own BuildKit writes to its store; one beside it hands over an archive.
    kind = "image" if engine.driver == "docker" else "docker"
    args = ["build", "--provenance=false", "--progress=plain", f"--build-arg=STOCK={stock}"]
    args += ["--target=hidden"] if hide else []
    with ui.step(f"build {RECIPE}") as step:
        done = engine.buildx(
            [*args, f"--output=type={kind},name={tag},{packed}", str(HERE / RECIPE)], step.update
        )
    if not done.ok:
        raise BuildFailedError(f"the build of {RECIPE} failed", why=done.tail)
    return tag


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launches", type=int, default=7)
    parser.add_argument("--pulls", type=int, default=1)
    parser.add_argument("--cold-cache", default="auto", choices=["auto", "drop", "evict", "off"])
    parser.add_argument(
        "--hide",
        action="store_true",
        help="no-bytecode by a layer that hides stock's bytecode: no disk, but stock's pull",
    )
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument(
        "subjects",
        nargs="*",
        default=["stock", RECIPE, "inference", "inference-native"],
        help="variants, and no-bytecode; the first is what the others are compared with",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
