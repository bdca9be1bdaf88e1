"""`tfslim trace`: its options, and how its documents are merged and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tfslim import cli_verify
from tfslim.errors import ConfigError
from tfslim.parity.gate import GpuUse
from tfslim.parity.probing import Settings
from tfslim.parity.tracing import Request
from tfslim.slim import trace as traces
from tfslim.slim.trace import Trace

__all__ = ["TraceGroup", "merged", "request"]

_RUN = "run"


class TraceGroup(click.Group):
    """A group whose first argument may be a tree or image to trace, in place of a subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the subcommand that traces before anything that names none."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)


def request(
    source: str,
    *,
    models: tuple[str, ...],
    trace_inputs: tuple[Path, ...],
    batch: str = "1,3",
    gpu: GpuUse = "auto",
) -> Request:
    """Return what the command line asks for.

    Raises:
        ConfigError: An option's value means nothing, or no model is named.
    """
    if not models:
        raise ConfigError(
            "no model to trace was named", way_out="Add --model PATH, or --model demo:basic-pitch."
        )
    return Request(source, models, trace_inputs, Settings(cli_verify.batches(batch)), gpu)


def merged(places: Sequence[Path]) -> Trace:
    """Return everything that the traces in files reached.

    Raises:
        InputError: One cannot be read.
        SlimError: They are of different versions.
    """
    return traces.merge([traces.load(place) for place in places])
