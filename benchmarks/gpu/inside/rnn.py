"""Recurrent layers, which cuDNN computes on a GPU, against their equations in float64; CTC loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

_NEAR = {"float32": 2e-5, "float16": 5e-3}


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases; none of Keras' layers where Keras was taken out."""
    try:
        import keras  # type: ignore # noqa: PLC0415
    except ImportError as error:
        why = str(error)
        yield Case("keras layers", "float32", lambda: None, gpu_only=f"no Keras: {why}")
    else:
        yield from quick(settings, _layers(tf, np, keras), 2)
    yield _ctc(tf, np)


def _layers(tf: Any, np: Any, keras: Any) -> Iterator[Case]:
    for batch, steps, width, units in ((2, 7, 5, 8), (8, 40, 64, 128), (1, 100, 16, 33)):
        x = rng(np, f"{steps} {units}").standard_normal((batch, steps, width)).astype("float32")
        for kind, layer_class in (("LSTM", keras.layers.LSTM), ("GRU", keras.layers.GRU)):
            layer = layer_class(units, return_sequences=True)
            weights = _weights(np, kind, width, units)
            layer.build(x.shape)
            layer.set_weights(weights)
            right = {"LSTM": _lstm, "GRU": _gru}[kind]
            wide = [weight.astype("float64") for weight in weights]
            name = f"{kind} {batch}x{steps}x{width} to {units}"
            compiled = tf.function(lambda v, layer=layer: layer(v))
            for called, work in ((name, layer), (f"{name}, as a graph", compiled)):
                yield Case(
                    called,
                    "float32",
                    lambda work=work, x=x: work(tf.constant(x)),
                    lambda x=x, w=wide, right=right: right(np, x.astype("float64"), *w),
                    _NEAR["float32"],
                    ("CudnnRNNV3", "@keras-rnn"),
                )


def _weights(np: Any, kind: str, width: int, units: int) -> list[Any]:
    random = rng(np, f"{kind} {width} {units}")
    gates = 4 if kind == "LSTM" else 3
    bias = (gates * units,) if kind == "LSTM" else (2, gates * units)
    shapes = ((width, gates * units), (units, gates * units), bias)
    return [(random.standard_normal(s) / np.sqrt(s[0] + 4)).astype("float32") for s in shapes]


def _sigmoid(np: Any, values: Any) -> Any:
    return 1 / (1 + np.exp(-values))


def _lstm(np: Any, x: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    """Keras' LSTM: gates i, f, c, o."""
    state = cell = np.zeros((x.shape[0], recurrent.shape[0]))
    found = []
    for step in range(x.shape[1]):
        i, f, c, o = np.split(x[:, step] @ kernel + state @ recurrent + bias, 4, axis=1)
        cell = _sigmoid(np, f) * cell + _sigmoid(np, i) * np.tanh(c)
        state = _sigmoid(np, o) * np.tanh(cell)
        found.append(state)
    return np.stack(found, axis=1)


def _gru(np: Any, x: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    """Keras' GRU with reset_after: gates z, r, h; a bias for input and one for state."""
    state = np.zeros((x.shape[0], recurrent.shape[0]))
    found = []
    for step in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, step] @ kernel + bias[0], 3, axis=1)
        hz, hr, hh = np.split(state @ recurrent + bias[1], 3, axis=1)
        z, r = _sigmoid(np, xz + hz), _sigmoid(np, xr + hr)
        state = z * state + (1 - z) * np.tanh(xh + r * hh)
        found.append(state)
    return np.stack(found, axis=1)


def _ctc(tf: Any, np: Any) -> Case:
    random = rng(np, "ctc")
    logits = random.standard_normal((20, 3, 6)).astype("float32")
    labels = random.integers(1, 6, (3, 5)).astype("int32")

    def loss(dtype: str) -> Any:
        return tf.nn.ctc_loss(
            tf.constant(labels),
            tf.constant(logits, dtype),
            [5, 4, 3],
            [20, 18, 20],
            True,
            blank_index=0,
        )

    def reference() -> Any:
        with tf.device("/CPU:0"):
            return loss("float32").numpy().astype("float64")

    return Case("ctc loss", "float32", lambda: loss("float32"), reference, 1e-4, ("CTCLossV2",))
