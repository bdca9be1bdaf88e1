"""A session's options, as the message ConfigProto that TF_SetConfig takes.

Field numbers: tensorflow/core/protobuf/config.proto and rewriter_config.proto, the same since
TensorFlow 2.0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfserve_app.capi.wire import (
    encode_bool,
    encode_bytes,
    encode_double,
    encode_entry,
    encode_int,
)
from tfserve_app.errors import SettingsError

__all__ = ["SessionOptions"]

_MAX_THREADS = 4096


@dataclass(frozen=True)
class SessionOptions:
    """How a session uses the machine; what is None or empty is left to TensorFlow.

    Attributes:
        gpu_memory_fraction: Share of each GPU's memory that may be taken, above 0 to 1.
        gpu_growth: True takes GPU memory as it is needed. TF_FORCE_GPU_ALLOW_GROWTH wins: the
            runtime reads it itself.
        gpu_devices: The GPUs to use, as "0,2"; counted among those CUDA_VISIBLE_DEVICES leaves.
        use_gpu: False runs on the CPU alone.
        intra_op_threads: Threads within one op.
        inter_op_threads: Ops run at once.
        grappler: False leaves the graph as it is: a faster start, and slower answers where
            Grappler would have improved the graph.
        sinking: False leaves out the pass of Grappler that moves ops into the branches and loops
            that alone use them (TFG); for graphs without any, in which it finds nothing to do.
    """

    gpu_memory_fraction: float | None = None
    gpu_growth: bool | None = None
    gpu_devices: str = ""
    use_gpu: bool = True
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    grappler: bool = True
    sinking: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> SessionOptions:
        """Read the options; an empty variable counts as not set.

        Raises:
            SettingsError: A value is not what its variable takes.
        """
        return cls(
            gpu_memory_fraction=_fraction(env, "GPU_MEMORY_FRACTION"),
            gpu_devices=_devices(env, "GPU_DEVICES"),
            intra_op_threads=_threads(env, "INTRA_OP_THREADS"),
            inter_op_threads=_threads(env, "INTER_OP_THREADS"),
            grappler=_switch(env, "GRAPPLER"),
        )

    def encode(self) -> bytes:
        """Return it as an encoded ConfigProto."""
        parts = [
            b"" if self.use_gpu else encode_entry(1, "GPU", 0),  # device_count
            _number(2, self.intra_op_threads),
            _number(5, self.inter_op_threads),
            _message(6, self._gpu_options()),
            # As in TensorFlow 2: an op without a GPU kernel runs on the CPU.
            encode_bool(7, value=True),  # allow_soft_placement
            _message(10, self._graph_options()),
        ]
        return b"".join(parts)

    def _gpu_options(self) -> bytes:
        fraction, growth = self.gpu_memory_fraction, self.gpu_growth
        parts = [
            b"" if fraction is None else encode_double(1, fraction),
            b"" if growth is None else encode_bool(4, growth),  # allow_growth
            _message(5, self.gpu_devices.encode()),  # visible_device_list
        ]
        return b"".join(parts)

    def _graph_options(self) -> bytes:
        """Return GraphOptions: rewrite_options (10).

        In there, disable_meta_optimizer (19) and disable_tfg_optimizer (32): see
        tensorflow/core/protobuf/rewriter_config.proto.
        """
        parts = [
            b"" if self.grappler else encode_bool(19, value=True),
            b"" if self.sinking else encode_bool(32, value=True),
        ]
        return _message(10, b"".join(parts))


def _number(number: int, value: int) -> bytes:
    return encode_int(number, value) if value else b""


def _message(number: int, value: bytes) -> bytes:
    return encode_bytes(number, value) if value else b""


def _fraction(env: Mapping[str, str], key: str) -> float | None:
    text = env.get(key)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise SettingsError(f"{key}={text!r}: a number above 0, up to 1, is expected")
    return value


def _devices(env: Mapping[str, str], key: str) -> str:
    text = env.get(key, "").replace(" ", "")
    if text and not re.fullmatch(r"[0-9]+(,[0-9]+)*", text, re.ASCII):
        raise SettingsError(f"{key}={text!r}: numbers of GPUs are expected, as in 0,2")
    return text


def _threads(env: Mapping[str, str], key: str) -> int:
    text = env.get(key) or "0"
    if not (text.isascii() and text.isdecimal() and int(text) <= _MAX_THREADS):
        raise SettingsError(f"{key}={text!r}: a whole number from 0 to {_MAX_THREADS} is expected")
    return int(text)


def _switch(env: Mapping[str, str], key: str) -> bool:
    text = env.get(key) or "on"
    if text not in ("on", "off"):
        raise SettingsError(f"{key}={text!r}: on or off is expected")
    return text == "on"
