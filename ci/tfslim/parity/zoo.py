"""Write small models of many kinds, with fixed seeds: what the parity gate runs by default.

    python -I -B zoo.py OUT [NAME…]

A script of its own: it needs the target's TensorFlow and Python 3.9, nothing of tfslim and no
network. Each model is a SavedModel folder OUT/NAME, or a file OUT/NAME.keras; it takes that name
when it is complete. Weights are random: what is asked is whether two installs agree, not whether a
model is any good.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

tf: Any = None  # imported by main(): the list of names does not need it

_SEED = 0
_Decorator = Callable[[Callable[..., Any]], Any]
_MAKERS: dict[str, Callable[[Path], None]] = {}
_STORY = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "42", "été"]


def main() -> int:
    """Write the models named, or all."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--version", action="store_true", help="say TensorFlow's version only")
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(_MAKERS))
    options = parser.parse_args()
    if options.version:
        sys.stdout.write(f"zoo: {_version()}\n")
        return 0
    if options.out is None:
        parser.error("the folder OUT is missing")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    global tf  # noqa: PLW0603 (see its definition)
    import tensorflow  # type: ignore  # noqa: PLC0415

    tf = tensorflow
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or _MAKERS:
        sys.stdout.write(f"zoo: {name}\n")
        sys.stdout.flush()
        _write(name, options.out)
    return 0


def _version() -> str:
    """Return TensorFlow's version and Keras', without the seconds that importing them takes."""
    found = {entry.metadata["Name"]: entry.version for entry in metadata.distributions()}
    tensorflow = [name for name in ("tensorflow", "tensorflow-cpu", "tf-nightly") if name in found]
    names = [*tensorflow[:1], *(name for name in ("keras", "keras-nightly") if name in found)]
    return "-".join(f"{name}{found[name]}" for name in names)


def _write(name: str, out: Path) -> None:
    """Make one model aside, then give it its name."""
    final = out / name
    aside = out / f"new-{name}"  # Keras insists on how a file's name ends
    tf.keras.backend.clear_session()  # names of layers, and so of inputs, count from one again
    tf.keras.utils.set_random_seed(_SEED)
    _MAKERS[name](aside)
    aside.replace(final)


def _model(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Enter a maker into the list under a model's name."""

    def enter(maker: Callable[[Path], None]) -> Callable[[Path], None]:
        _MAKERS[name] = maker
        return maker

    return enter


def _save(out: Path, module: Any, functions: dict[str, Any]) -> None:
    """Save functions, each with its input signature, as the signatures of a SavedModel."""
    signatures = {name: fn.get_concrete_function() for name, fn in functions.items()}
    tf.saved_model.save(module, str(out), signatures=signatures)


def _function(dtypes: dict[str, tuple[Any, list[Any]]], **options: Any) -> _Decorator:
    """Return a decorator for a function whose inputs are named, with dtype and shape of each."""
    specs = [tf.TensorSpec(shape, dtype, name) for name, (dtype, shape) in dtypes.items()]
    decorator: _Decorator = tf.function(input_signature=specs, **options)
    return decorator


@_model("cnn")
def _cnn(out: Path) -> None:
    """MobileNetV2's shape, small: depthwise and pointwise convolutions, batch normalisation."""
    model = tf.keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3), alpha=0.35, classes=100
    )
    # Without statistics of its own, an untrained network of this depth answers the same to all.
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(tf.random.stateless_uniform([8, 96, 96, 3], seed=[5, 6]), training=True)
    model.export(str(out), verbose=False)


@_model("rnn")
def _rnn(out: Path) -> None:
    layers = tf.keras.layers
    inputs = layers.Input((12, 8), name="steps")
    hidden = layers.LSTM(16, return_sequences=True)(inputs)
    hidden = layers.Bidirectional(layers.GRU(8))(hidden)
    model = tf.keras.Model(inputs, layers.Dense(4, activation="softmax")(hidden))
    model.export(str(out), verbose=False)


@_model("attention")
def _attention(out: Path) -> None:
    layers = tf.keras.layers
    tokens = layers.Input((None,), dtype="int32", name="tokens")
    hidden = layers.Embedding(50, 32)(tokens)
    for causal in (False, True):
        attention = layers.MultiHeadAttention(num_heads=4, key_dim=8)
        hidden = layers.LayerNormalization()(
            hidden + attention(hidden, hidden, use_causal_mask=causal)
        )
        inner = layers.Dense(32)(layers.Dense(64, activation="gelu")(hidden))
        hidden = layers.LayerNormalization()(hidden + inner)
    tf.keras.Model(tokens, layers.Dense(50)(hidden)).export(str(out), verbose=False)


@_model("fft")
def _fft(out: Path) -> None:
    @_function({"signal": (tf.float32, [None, 256])})
    def spectra(signal: Any) -> dict[str, Any]:
        square = tf.reshape(signal, [-1, 16, 16])
        cube = tf.reshape(signal, [-1, 8, 8, 4])
        frames = tf.signal.stft(signal, frame_length=64, frame_step=32)
        half = tf.signal.rfft(signal)
        return {
            "rfft": half,
            "irfft": tf.signal.irfft(half * half),
            "ifft": tf.signal.ifft(tf.signal.fft(tf.complex(signal, signal[:, ::-1]))),
            "fft2d": tf.signal.fft2d(tf.complex(square, tf.zeros_like(square))),
            "rfft2d": tf.signal.rfft2d(square),
            "fft3d": tf.signal.fft3d(tf.complex(cube, cube)),
            "double": tf.signal.rfft(tf.cast(signal, tf.float64)),
            "stft": frames,
            "istft": tf.signal.inverse_stft(frames, frame_length=64, frame_step=32),
            "dct": tf.signal.dct(signal),
        }

    _save(out, tf.Module(), {"serving_default": spectra})


@_model("linalg")
def _linalg(out: Path) -> None:
    @_function({"matrix": (tf.float32, [None, 6, 6]), "right": (tf.float32, [None, 6, 2])})
    def solve(matrix: Any, right: Any) -> dict[str, Any]:
        positive = tf.matmul(matrix, matrix, transpose_b=True) + 6.0 * tf.eye(6)
        values, vectors = tf.linalg.eigh(positive)
        factors, pivots = tf.linalg.lu(positive)
        singular, left, _ = tf.linalg.svd(matrix)
        orthogonal, upper = tf.linalg.qr(matrix)
        return {
            "cholesky": tf.linalg.cholesky(positive),
            "solve": tf.linalg.solve(positive, right),
            "triangular": tf.linalg.triangular_solve(tf.linalg.cholesky(positive), right),
            "lstsq": tf.linalg.lstsq(positive, right),
            "inverse": tf.linalg.inv(positive),
            "determinant": tf.linalg.det(matrix),
            "exponential": tf.linalg.expm(matrix),
            "eigenvalues": values,
            "eigenvectors": vectors,
            "lu": factors,
            "pivots": pivots,
            "singular": singular,
            "left": left,
            "orthogonal": orthogonal,
            "upper": upper,
        }

    _save(out, tf.Module(), {"serving_default": solve})


@_model("text")
def _text(out: Path) -> None:
    """Lookup tables (one from a file), Keras' text layers, regular expressions, hashes, Unicode."""
    module = tf.Module()
    words = out.with_name("words.txt")  # the asset's name in the model
    words.write_text("\n".join(_STORY) + "\n", encoding="utf-8")
    whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    from_file = tf.lookup.TextFileInitializer(str(words), tf.string, whole, tf.int64, line)
    module.from_file = tf.lookup.StaticVocabularyTable(from_file, num_oov_buckets=3)
    lengths = tf.lookup.KeyValueTensorInitializer(_STORY, [len(word) for word in _STORY])
    module.lengths = tf.lookup.StaticHashTable(lengths, default_value=-1)
    module.lookup = tf.keras.layers.StringLookup(vocabulary=_STORY)
    module.vectorize = tf.keras.layers.TextVectorization(
        vocabulary=_STORY, output_sequence_length=6
    )

    @_function({"text": (tf.string, [None])})
    def numbers(text: Any) -> dict[str, Any]:
        return {
            "file": module.from_file.lookup(text),
            "lengths": module.lengths.lookup(text),
            "lookup": module.lookup(text),
            "vectors": module.vectorize(text),
            "fast": tf.strings.to_hash_bucket_fast(text, 1000),
            "strong": tf.strings.to_hash_bucket_strong(text, 1000, key=[1, 2]),
            "numeric": tf.strings.regex_full_match(text, r"[+-]?\d+(\.\d+)?"),
        }

    @_function({"text": (tf.string, [None])})
    def strings(text: Any) -> dict[str, Any]:
        padded = tf.strings.join([text, tf.fill(tf.shape(text), "#")], separator=" ")
        pieces = tf.strings.split(padded)
        return {
            "lower": tf.strings.lower(text, encoding="utf-8"),
            "replaced": tf.strings.regex_replace(text, r"(\w)\W+", r"<\1>"),
            "start": tf.strings.substr(padded, 0, 3, unit="UTF8_CHAR"),
            "pieces": pieces.to_tensor(default_value=""),
            "rejoined": tf.strings.reduce_join(pieces, axis=-1, separator="_"),
            "grams": tf.strings.ngrams(pieces, 2).to_tensor(""),
            "letters": tf.strings.unicode_decode(text, "UTF-8").to_tensor(0),
            "latin": tf.strings.unicode_transcode(text, "UTF-8", "UTF-16-BE"),
            "coded": tf.io.decode_base64(tf.io.encode_base64(text)),
            "shown": tf.strings.as_string(tf.strings.length(text), width=5, fill="0"),
        }

    _save(out, module, {"serving_default": numbers, "strings": strings})
    words.unlink()


@_model("control-flow")
def _control_flow(out: Path) -> None:
    """Loops, branches, arrays that grow, and shapes known only when it runs."""

    @_function({"values": (tf.float32, [None, None])})
    def flow(values: Any) -> dict[str, Any]:
        rows = tf.shape(values)[0]
        grown = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
        total = tf.constant(0.0)
        for row in tf.range(rows):
            line = values[row]
            if tf.reduce_sum(line) > 1.0:
                total += tf.reduce_max(line)
            else:
                total -= tf.reduce_min(line)
            grown = grown.write(row, tf.cumsum(line) * total)
        steps = tf.constant(0)
        while tf.abs(total) > 0.01 and steps < 50:
            total, steps = total / 2.0, steps + 1
        chosen = tf.switch_case(
            rows % 3, [lambda: values, lambda: tf.transpose(values), lambda: values[:1]]
        )
        return {
            "grown": grown.stack(),
            "total": total,
            "steps": steps,
            "chosen": chosen,
            "mapped": tf.map_fn(lambda row: tf.sort(row)[::-1], values),
            "scanned": tf.scan(lambda state, row: 0.5 * state + row, values),
            "positive": tf.boolean_mask(values, values > 0.0),
            "slope": tf.gradients(tf.reduce_sum(tf.tanh(values) ** 2), values)[0],
        }

    _save(out, tf.Module(), {"serving_default": flow})


@_model("sparse")
def _sparse(out: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_uniform([8, 5], seed=[1, 2]))

    @_function({"dense": (tf.float32, [None, 8])})
    def multiply(dense: Any) -> dict[str, Any]:
        thinned = tf.sparse.from_dense(tf.nn.relu(dense - 0.3))
        rows = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=thinned.indices, values=thinned.values, dense_shape=thinned.dense_shape
        )
        return {
            "product": tf.sparse.sparse_dense_matmul(thinned, module.weights),
            "compressed": tf.raw_ops.SparseMatrixMatMul(a=rows, b=module.weights),
            "sum": tf.sparse.reduce_sum(thinned, axis=1),
            "softmax": tf.sparse.to_dense(tf.sparse.softmax(thinned)),
            "embedded": tf.nn.embedding_lookup_sparse(
                module.weights,
                tf.SparseTensor(thinned.indices, thinned.indices[:, 1], thinned.dense_shape),
                None,
                combiner="sum",
            ),
        }

    _save(out, module, {"serving_default": multiply})


@_model("random")
def _random(out: Path) -> None:
    """Stateless random ops: the same seed gives the same numbers everywhere."""

    @_function({"seed": (tf.int32, [2])})
    def draw(seed: Any) -> dict[str, Any]:
        random = tf.random
        return {
            "uniform": random.stateless_uniform([64], seed),
            "integers": random.stateless_uniform([64], seed, 0, 1000, tf.int64),
            "normal": random.stateless_normal([64], seed),
            "truncated": random.stateless_truncated_normal([64], seed),
            "gamma": random.stateless_gamma([16], seed, alpha=2.0),
            "poisson": random.stateless_poisson([16], seed, lam=3.0),
            "binomial": random.stateless_binomial([16], seed, counts=10.0, probs=0.3),
            "categories": random.stateless_categorical(tf.math.log([[0.1, 0.2, 0.7]]), 16, seed),
            "shuffled": random.experimental.stateless_shuffle(tf.range(16), seed),
        }

    _save(out, tf.Module(), {"serving_default": draw})


@_model("image")
def _image(out: Path) -> None:
    """Coding and decoding, resizing, colours, choosing boxes."""

    @_function({"pixels": (tf.uint8, [None, 24, 24, 3])})
    def pictures(pixels: Any) -> dict[str, Any]:
        first = pixels[0]
        unit = tf.image.convert_image_dtype(pixels, tf.float32)
        corners = tf.reshape(unit, [-1, 4])[:20]
        boxes = tf.concat([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
        return {
            "png": tf.io.decode_png(tf.io.encode_png(first)),
            "jpeg": tf.io.decode_jpeg(tf.io.encode_jpeg(first)),
            "bilinear": tf.image.resize(pixels, [17, 31]),
            "cubic": tf.image.resize(pixels, [50, 40], method="bicubic", antialias=True),
            "area": tf.image.resize(pixels, [8, 8], method="area"),
            "hue": tf.image.rgb_to_hsv(unit),
            "contrast": tf.image.adjust_contrast(unit, 1.7),
            "edges": tf.image.sobel_edges(unit),
            "boxes": tf.image.non_max_suppression(boxes, corners[:, 0], 8),
            "cropped": tf.image.crop_and_resize(unit, boxes[:3], [0, 0, 0], [9, 9]),
        }

    _save(out, tf.Module(), {"serving_default": pictures})


@_model("arrays")
def _arrays(out: Path) -> None:
    """Sorting, gathering, scattering, reductions and arithmetic in the usual dtypes."""

    @_function({"values": (tf.float32, [None, 16]), "places": (tf.int32, [None])})
    def arrays(values: Any, places: Any) -> dict[str, Any]:
        flat = tf.reshape(values, [-1])
        top = tf.math.top_k(values, 5)
        halves = {
            kind.name: tf.cast(tf.matmul(part, part, transpose_b=True), tf.float32)
            for kind in (tf.float16, tf.bfloat16)
            for part in [tf.cast(values, kind)]
        }
        return {
            **halves,
            "double": tf.matmul(*[tf.cast(values, tf.float64)] * 2, transpose_b=True),
            "top": top.values,
            "order": tf.argsort(values, axis=-1, stable=True),
            "gathered": tf.gather(flat, places),
            "scattered": tf.scatter_nd(places[:, None], tf.cast(places, tf.float32), [10]),
            "segments": tf.math.unsorted_segment_sum(tf.cast(places, tf.int64), places, 10),
            "unique": tf.unique(places).y,
            "logs": tf.math.log(values),
            "special": tf.math.lgamma(values) + tf.math.erf(values) + tf.math.bessel_i0(values),
            "einsum": tf.einsum("bi,bj->bij", values, values),
            "softmax": tf.nn.softmax(values),
            "variance": tf.math.reduce_variance(values, axis=0),
            "product": tf.math.cumprod(values, axis=1, reverse=True),
            "bits": tf.bitwise.bitwise_xor(places, 5),
            "bucket": tf.raw_ops.Bucketize(input=flat, boundaries=[0.0, 0.5, 1.0]),
        }

    _save(out, tf.Module(), {"serving_default": arrays})


@_model("convolutions")
def _convolutions(out: Path) -> None:
    """Convolutions in one, two and three dimensions, transposed and dilated; pooling."""
    layers = tf.keras.layers
    volume = layers.Input((8, 12, 12, 2), name="volume")
    hidden = layers.Conv3D(4, 3, padding="same", activation="relu")(volume)
    hidden = layers.MaxPooling3D((2, 1, 1))(hidden)
    hidden = layers.Reshape((12, 12, 16))(hidden)
    hidden = layers.Conv2D(8, 3, dilation_rate=2, padding="same", activation="elu")(hidden)
    hidden = layers.SeparableConv2D(8, 5, padding="same")(hidden)
    hidden = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(hidden)
    hidden = layers.AveragePooling2D(3)(hidden)
    hidden = layers.Reshape((64, 4))(hidden)
    hidden = layers.Conv1D(6, 7, strides=3, activation="swish")(hidden)
    hidden = layers.GroupNormalization(groups=2)(hidden)
    model = tf.keras.Model(volume, layers.Conv1DTranspose(3, 4, strides=2)(hidden))
    model.export(str(out), verbose=False)


@_model("compiled")
def _compiled(out: Path) -> None:
    """A function that XLA compiles when it is first called."""
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_normal([32, 32], seed=[3, 4]))

    @_function({"values": (tf.float32, [4, 32])}, jit_compile=True)
    def layers(values: Any) -> dict[str, Any]:
        for _ in range(3):
            values = tf.nn.gelu(tf.matmul(values, module.weights))
        return {"result": tf.nn.log_softmax(values)}

    _save(out, module, {"serving_default": layers})


@_model("two-ways.keras")
def _two_ways(out: Path) -> None:
    """A .keras file with two inputs and two outputs by name, and preprocessing inside."""
    layers = tf.keras.layers
    image = layers.Input((20, 20, 3), name="image")
    word = layers.Input((1,), dtype="string", name="word")
    hidden = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 127.5, -1)(image))
    hidden = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(hidden))
    number = layers.StringLookup(vocabulary=_STORY)(word)
    meaning = layers.Flatten()(layers.Embedding(len(_STORY) + 1, 8)(number))
    both = layers.Concatenate()([hidden, meaning])
    outputs = {"kind": layers.Dense(4, activation="softmax")(both), "size": layers.Dense(1)(both)}
    tf.keras.Model({"image": image, "word": word}, outputs).save(str(out))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # TensorFlow's teardown takes long and writes nothing
