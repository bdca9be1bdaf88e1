"""Show an inspection in a terminal: tables a person reads from the top."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfslim.images.inspection import GpuUse, Inspection, Shared, Waste
from tfslim.ui import human_bytes

__all__ = ["render_shared", "render_text"]

_COMMAND_CHARACTERS = 60


def render_text(inspection: Inspection, *, top: int = 15) -> RenderableType:
    """Return tables for a console; `top` rows at most in the long ones."""
    parts: list[RenderableType] = [_summary(inspection)]
    if inspection.layers:
        parts.append(_layers(inspection))
    parts += [_packages(inspection, top), _kinds(inspection), _files(inspection, top)]
    if inspection.gpu:
        parts += _gpu(inspection.gpu, top)
    if inspection.waste.wasted_bytes:
        parts.append(_waste(inspection.waste, top))
    if inspection.removals:
        parts.append(_removals(inspection, top))
    return Group(*parts)


def render_shared(shared: Shared) -> RenderableType:
    """Return tables for a console: the images, and which of them have which layer."""
    numbers = {image.source: str(n) for n, image in enumerate(shared.images, 1)}
    images = [
        (
            numbers[image.source],
            image.source,
            human_bytes(image.pull_bytes),
            human_bytes(image.adds_pull_bytes),
            human_bytes(image.unpacked_bytes),
            human_bytes(image.adds_unpacked_bytes),
        )
        for image in shared.images
    ]
    layers = [
        (
            layer.digest.removeprefix("sha256:")[:12],
            " ".join(numbers[source] for source in layer.images),
            "?" if layer.pull_bytes is None else human_bytes(layer.pull_bytes),
            f"{layer.stored} × {human_bytes(layer.unpacked_bytes)}",
            _short(layer.created_by),
        )
        for layer in shared.layers
    ]
    alone = sum(image.pull_bytes for image in shared.images)
    total = (
        f"\nall of them: {human_bytes(shared.pull_bytes)} to pull "
        f"({human_bytes(alone - shared.pull_bytes)} less than each alone), "
        f"{human_bytes(shared.unpacked_bytes)} unpacked"
    )
    columns = ("", "image", ">pull", ">adds", ">unpacked", ">adds")
    return Group(
        _table("Images; what each adds after those above it", columns, images),
        _table("\nLayers", ("digest", "in", ">pull", ">unpacked", "made by"), layers),
        Text(total),
    )


def _summary(inspection: Inspection) -> Text:
    pull = "not known" if inspection.pull_bytes is None else human_bytes(inspection.pull_bytes)
    if inspection.pull_bytes_source == "estimated":
        pull = f"about {pull}"
    lines = [inspection.source]
    if inspection.image:
        lines.append(f"image       {inspection.image.name}  {inspection.image.platform}")
    lines += [
        f"pull        {pull}  ({inspection.pull_bytes_note})",
        f"on disk     {human_bytes(inspection.disk_bytes)} in {inspection.files} files",
        f"wasted      {human_bytes(inspection.waste.wasted_bytes)} overwritten or deleted by later "
        f"layers; efficiency {inspection.waste.efficiency:.1%}",
        f"duplicates  {human_bytes(inspection.duplicates.extra_bytes)} in "
        f"{inspection.duplicates.groups} groups of equal files",
    ]
    gates = ", ".join(f"{gate.name} {gate.outcome}" for gate in inspection.gates)
    lines += [f"parity      {gates}, as the image says of itself"] if gates else []
    return Text("\n".join(lines))


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a table whose columns named with `>` are right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _removals(inspection: Inspection, top: int) -> Table:
    rows = (
        (item.rule, human_bytes(item.removed_bytes), str(item.count))
        for item in inspection.removals[:top]
    )
    return _table(
        "\nRemoved by `tfslim slim`, as the tree says of itself",
        ("rule", ">bytes", ">pieces"),
        rows,
    )


def _layers(inspection: Inspection) -> Table:
    rows = (
        (
            str(number),
            layer.digest.removeprefix("sha256:")[:12],
            "?" if layer.pull_bytes is None else human_bytes(layer.pull_bytes),
            human_bytes(layer.unpacked_bytes),
            str(layer.files),
            human_bytes(layer.wasted_bytes),
            _short(layer.created_by),
        )
        for number, layer in enumerate(inspection.layers)
    )
    columns = ("layer", "digest", ">pull", ">unpacked", ">files", ">wasted", "made by")
    return _table("\nLayers, base first", columns, rows)


def _short(command: str) -> str:
    text = " ".join(command.removeprefix("/bin/sh -c ").split())
    return text if len(text) <= _COMMAND_CHARACTERS else f"{text[: _COMMAND_CHARACTERS - 1]}…"


def _packages(inspection: Inspection, top: int) -> Table:
    rows = [
        (package.name, package.version, package.kind, human_bytes(package.disk_bytes))
        for package in inspection.packages[:top]
    ]
    rest = inspection.packages[top:]
    if rest:
        total = human_bytes(sum(package.disk_bytes for package in rest))
        rows.append((f"{len(rest)} more", "", "", total))
    return _table("\nPackages", ("name", "version", "kind", ">on disk"), rows)


def _kinds(inspection: Inspection) -> Table:
    rows = ((use.kind, str(use.files), human_bytes(use.disk_bytes)) for use in inspection.kinds)
    return _table("\nKinds of file", ("kind", ">files", ">on disk"), rows)


def _files(inspection: Inspection, top: int) -> Table:
    rows = (
        (use.path, use.owner, human_bytes(use.disk_bytes)) for use in inspection.largest_files[:top]
    )
    return _table("\nLargest files", ("path", "of", ">size"), rows)


def _gpu(gpu: GpuUse, top: int) -> list[RenderableType]:
    archs = sorted(gpu.by_arch_bytes.items(), key=lambda item: -item[1])
    title = f"\nGPU code by architecture, {human_bytes(gpu.total_bytes)} as stored"
    libraries = list(gpu.by_library.items())[:top]
    return [
        *_served(gpu, top),
        _table(title, ("architecture", ">bytes"), ((k, human_bytes(v)) for k, v in archs)),
        _table(
            "\nGPU code by library",
            ("path", ">bytes", ">unexplained"),
            (
                (path, human_bytes(use.total_bytes), human_bytes(use.unexplained_bytes))
                for path, use in libraries
            ),
        ),
    ]


def _served(gpu: GpuUse, top: int) -> list[RenderableType]:
    """Return what GPUs find, and in which libraries they would compile PTX at first use."""
    if not gpu.by_gpu:
        return []
    rows = (
        (name, str(one.code), str(one.jit), str(one.none), str(one.picked))
        for name, one in gpu.by_gpu.items()
    )
    titles = (">machine code", ">would JIT", ">cannot run", ">library picks")
    tables: list[RenderableType] = [
        _table("\nWhat each GPU finds, in modules of GPU code", ("GPU", *titles), rows),
        Text(
            "would JIT: PTX, compiled by the driver at first use (`tfslim slim --aot` compiles it "
            "before)\ncannot run: code for other GPUs alone, which libraries also have by design\n"
            "library picks: tables that a library reads by itself; not known what it takes"
        ),
    ]
    compiling = [name for name, one in gpu.by_gpu.items() if one.jit]
    by_library = {
        path: {name: use.by_gpu[name].jit for name in compiling if name in use.by_gpu}
        for path, use in gpu.by_library.items()
    }
    lines = [(path, jit) for path, jit in by_library.items() if any(jit.values())]
    if lines:
        columns = ("path", *(f">{name}" for name in compiling))
        tables.append(
            _table(
                "\nModules that would be compiled at first use",
                columns,
                ((path, *(str(jit.get(n, 0)) for n in compiling)) for path, jit in lines[:top]),
            )
        )
    return tables


def _waste(waste: Waste, top: int) -> Table:
    rows = (
        (use.path, f"layer {use.layer}", human_bytes(use.disk_bytes)) for use in waste.largest[:top]
    )
    return _table("\nWasted: pulled, never seen", ("path", "in", ">size"), rows)
