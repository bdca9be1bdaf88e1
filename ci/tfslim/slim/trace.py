"""What models were seen to reach: a document that people read, commit and merge.

One item a line, sorted, with names that are the same in any environment of the same versions:

    site-packages/tensorflow/__init__.py    a module, whether its source or its bytecode was read
    python/encodings/utf_8.py               the same in the standard library
    root/bin/python3.11                     anything else, relative to the environment's folder
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, ValidationError

from tfslim.errors import InputError, SlimError
from tfslim.files import write_whole

__all__ = ["Trace", "TracedModel", "load", "merge", "module_name", "package_path"]

_SITE: Final = "site-packages/"
_PACKAGES: Final = re.compile(r"(?:^|/)(?:site|dist)-packages/(?P<rest>.+)")
# a/__pycache__/b.cpython-311.opt-1.pyc, and a/b.pyc where there are no sources
_BYTECODE: Final = re.compile(r"(?P<folder>.*/)?__pycache__/(?P<stem>[^/.]+)\.[^/]+\.pyc")
_LARGEST_BYTES: Final = 64 << 20


def _printable(text: str) -> str:
    """Accept only what is one line and shows as what it is."""
    if not text or not text.isprintable():
        raise ValueError(f"{text!r} is not a name")
    return text


Name = Annotated[str, AfterValidator(_printable)]
Names = Annotated[frozenset[Name], PlainSerializer(sorted, return_type=list[str])]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TracedModel(_Data):
    """A model that was run, and with what.

    Attributes:
        name: Of its folder or file.
        sha256: Digest of all its files.
        calls: What ran without an error, by signature: "batch 1, seed 0", or an input's file name.
        gpus: GPUs it ran on; empty where there was none, and no GPU kernel was reached.
    """

    name: Name
    sha256: Name
    calls: dict[Name, Names]
    gpus: Names = frozenset()


class Trace(_Data):
    """What one or several models reached in an environment while they ran.

    Attributes:
        version: Of this document's form.
        tensorflow: TensorFlow's version.
        python: Python's, as in "3.11".
        machine: As in "x86_64".
        packages: Versions of all installed distributions, by normalised name.
        models: What was run.
        ops: TensorFlow op types of all their graphs, as saved and as optimised, and of what ran
            eagerly. "@xla" stands for functions that XLA compiles; "@keras-rnn" for Keras layers
            that take cuDNN's kernels where there is a GPU, and show none of those ops without one.
        kernels: "device op type…" of what was run, apart from what XLA compiled.
        libraries: File names of the shared libraries that were mapped.
        opened: Files that were opened, mapped or loaded (see above).
    """

    version: Literal[1] = 1
    tensorflow: str = ""
    python: str = ""
    machine: str = ""
    packages: dict[Name, Name] = {}
    models: tuple[TracedModel, ...] = ()
    ops: Names
    kernels: Names = frozenset()
    libraries: Names = frozenset()
    opened: Names

    def save(self, path: Path) -> None:
        """Write it whole: an interruption leaves the old one."""
        write_whole(path, self.model_dump_json(indent=1) + "\n")

    def check_fits(self, packages: Mapping[str, str]) -> None:
        """Refuse an environment whose files are not those that the trace speaks of.

        Args:
            packages: Versions of the environment's distributions that matter, and of "python".

        Raises:
            SlimError: Some have another version, or TensorFlow is not there.
        """
        traced = {**self.packages, "python": self.python}
        differ = [
            f"{name}: traced {traced[name]}, here {packages[name]}"
            for name in sorted(packages)
            if traced.get(name, packages[name]) != packages[name]
        ]
        if "tensorflow" not in packages:
            differ.insert(0, f"tensorflow: traced {self.tensorflow}, not installed here")
        if differ:
            raise SlimError(
                "the trace was made in an environment of other versions",
                why="\n".join(differ),
                way_out="Trace again in this one:\n  tfslim trace TREE --model PATH -o trace.json",
            )

    def describe(self) -> list[str]:
        """Return it in a few lines for people."""
        lines = [
            f"TensorFlow {self.tensorflow}, Python {self.python}: {len(self.ops)} op types, "
            f"{len(self.kernels)} kernels, {len(self.opened)} files, "
            f"{len(self.libraries)} libraries"
        ]
        for model in self.models:
            calls = sum(map(len, model.calls.values()))
            where = f"on {', '.join(sorted(model.gpus))}" if model.gpus else "without a GPU"
            lines.append(f"{model.name}: {', '.join(sorted(model.calls))}; {calls} calls, {where}")
        if not all(model.gpus for model in self.models):
            lines.append("GPU kernels: not traced, no GPU; what they need is kept by op types")
        return lines


def load(path: Path) -> Trace:
    """Read a trace.

    Raises:
        InputError: It cannot be read, or is no trace of this version.
    """
    way_out = "Make it with `tfslim trace TREE --model PATH -o trace.json`."
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path} is too large for a trace", way_out=way_out)
        return Trace.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"trace {path} cannot be read", why=str(error), way_out=way_out) from None
    except ValidationError as error:
        why = "\n".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]
        )
        raise InputError(f"{path} is not a trace", why=why, way_out=way_out) from None


def merge(traces: Iterable[Trace]) -> Trace:
    """Return one trace of everything that several reached; their order makes no difference.

    Raises:
        SlimError: They are of different versions of anything.
    """
    first, *others = traces
    for other in others:
        _check_same(first, other)
    every = (first, *others)

    def union(field: Callable[[Trace], frozenset[str]]) -> frozenset[str]:
        return frozenset().union(*(field(trace) for trace in every))

    packages = dict(sorted({k: v for trace in every for k, v in trace.packages.items()}.items()))
    return first.model_copy(
        update={
            "packages": packages,
            "models": _merged_models(model for trace in every for model in trace.models),
            "ops": union(lambda trace: trace.ops),
            "kernels": union(lambda trace: trace.kernels),
            "libraries": union(lambda trace: trace.libraries),
            "opened": union(lambda trace: trace.opened),
        }
    )


def _check_same(one: Trace, other: Trace) -> None:
    differ = [
        f"{name}: {a} and {b}"
        for name, a, b in (
            ("TensorFlow", one.tensorflow, other.tensorflow),
            ("Python", one.python, other.python),
            ("machine", one.machine, other.machine),
            *(
                (name, one.packages[name], other.packages[name])
                for name in sorted(one.packages.keys() & other.packages.keys())
            ),
        )
        if a != b
    ]
    if differ:
        raise SlimError(
            "these traces were made in environments of different versions",
            why="\n".join(differ),
            way_out="Trace all models in the environment that is to be slimmed, then merge.",
        )


def _merged_models(models: Iterable[TracedModel]) -> tuple[TracedModel, ...]:
    """Return each model once, with all calls that were made of it."""
    merged: dict[tuple[str, str], TracedModel] = {}
    for model in models:
        known = merged.setdefault((model.name, model.sha256), model)
        names = sorted({*known.calls, *model.calls})
        calls = {
            name: known.calls.get(name, frozenset()) | model.calls.get(name, frozenset())
            for name in names
        }
        update = {"calls": calls, "gpus": known.gpus | model.gpus}
        merged[model.name, model.sha256] = known.model_copy(update=update)
    return tuple(merged[key] for key in sorted(merged))


def package_path(path: str) -> str | None:
    """Return what follows site-packages (or dist-packages) in a path; None where neither is."""
    match = _PACKAGES.search(path)
    return match["rest"] if match else None


def module_name(path: str) -> str:
    """Return the source's path for a module's bytecode, and any other path as it is."""
    match = _BYTECODE.fullmatch(path)
    if match:
        return f"{match['folder'] or ''}{match['stem']}.py"
    return f"{path[:-1]}" if path.endswith(".pyc") else path
