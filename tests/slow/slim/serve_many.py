"""Load and run models of many kinds, each way of loading them; print a digest of all answers.

    python serve_many.py [OPENED]

With a file name it also writes down every file that Python opened and every library that was
mapped. A program of its own: it runs inside the trees that are tested.
"""

from __future__ import annotations

# ruff: noqa: E402 (what Python opens is written down from the first import on)
import hashlib
import os
import sys
import tempfile
from pathlib import Path

opened: set[str] = set()
if len(sys.argv) > 1:
    sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event == "open" else None)

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import keras
import numpy as np
import tensorflow as tf

layers = keras.layers
digest = hashlib.sha256()
keras.utils.set_random_seed(7)
tf.config.experimental.enable_op_determinism()


def add(*values: object) -> None:
    for value in tf.nest.flatten(values):
        array = np.asarray(value)
        data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        digest.update(data)


def keras_model() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, activation="relu")(image)
    x = layers.DepthwiseConv2D(3)(layers.BatchNormalization()(x))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.Reshape((144, 4))(x))
    x = layers.GRU(4, return_sequences=True)(layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.Dropout(0.5)(layers.LayerNormalization()(layers.GlobalAveragePooling1D()(x)))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


folder = tempfile.mkdtemp()
x = np.random.RandomState(0).rand(2, 16, 16, 3).astype("float32")
model = keras_model()
answer = model(x).numpy()
add(answer)
model.save(f"{folder}/m.keras")
model.save(f"{folder}/m.h5")
model.export(f"{folder}/saved")
for name in ("m.keras", "m.h5"):
    loaded = keras.models.load_model(f"{folder}/{name}")
    add(loaded(x).numpy(), loaded.predict(x, verbose=1))
    loaded.summary()
served = tf.saved_model.load(f"{folder}/saved")
add(served.signatures["serving_default"](tf.constant(x)))
add(keras.layers.TFSMLayer(f"{folder}/saved", call_endpoint="serve")(x))
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], f"{folder}/saved")
    signature = meta.signature_def["serving_default"]
    (inputs,), (outputs,) = signature.inputs.values(), signature.outputs.values()
    add(session.run(outputs.name, {inputs.name: x}))

matrix = tf.reshape(tf.range(36.0), (6, 6)) + 7 * tf.eye(6)
add(tf.function(tf.signal.rfft)(matrix), tf.signal.stft(tf.range(400.0), 64, 32))
add(tf.linalg.svd(matrix), tf.linalg.inv(matrix), tf.linalg.eigh(matrix + tf.transpose(matrix)))
add(tf.linalg.cholesky(matrix @ tf.transpose(matrix)), tf.linalg.solve(matrix, matrix))
add(tf.function(lambda v: tf.reduce_sum(tf.nn.relu(v) @ v), jit_compile=True)(matrix))
add(tf.strings.split(["a b c"]).flat_values, tf.strings.regex_replace("abc", "b", "x"))
add(tf.strings.unicode_decode("aé", "UTF-8"), tf.strings.to_hash_bucket_fast(["a"], 9))
table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
add(table.lookup(tf.constant(["a", "b"])))
add(tf.sparse.sparse_dense_matmul(tf.sparse.eye(6), matrix))
picture = tf.cast(tf.reshape(tf.range(192), (8, 8, 3)), tf.uint8)
add(tf.image.decode_png(tf.image.encode_png(picture)), tf.image.resize(picture, (4, 4)))
add(tf.image.decode_jpeg(tf.image.encode_jpeg(picture)))
add(tf.audio.decode_wav(tf.audio.encode_wav(tf.zeros((100, 1)), 8000)))
add(list(tf.data.Dataset.range(5).batch(2).prefetch(1).map(lambda v: v + 1)))
add(tf.while_loop(lambda i: i < 3, lambda i: (i + 1,), (0,)), tf.map_fn(lambda v: v * 2, matrix))
add(tf.random.stateless_normal((4,), (1, 2)), tf.io.serialize_tensor(matrix))
add(tf.quantization.fake_quant_with_min_max_args(matrix))
text = layers.TextVectorization()
text.adapt(["a b", "b"])
add(text(["b a"]), layers.StringLookup(vocabulary=["a"])(["a"]), layers.Hashing(3)(["a"]))
add(layers.Normalization(mean=0.5, variance=2.0)(x), layers.Rescaling(2.0)(x))
checkpoint = tf.train.Checkpoint(model=model)
checkpoint.restore(checkpoint.save(f"{folder}/checkpoint")).assert_consumed()
strategy = tf.distribute.MirroredStrategy(["CPU:0"])
add(strategy.run(lambda: tf.reduce_sum(matrix)))
add(tf.numpy_function(lambda v: v * 2, [matrix], tf.float32))
try:
    tf.reshape(matrix, (5, 5))
except tf.errors.InvalidArgumentError as error:
    add(str(error))

if len(sys.argv) > 1:
    maps = Path("/proc/self/maps").read_text().splitlines()
    opened |= {line.split(maxsplit=5)[5] for line in maps if "/" in line}
    Path(sys.argv[1]).write_text("\n".join(sorted(os.path.realpath(name) for name in opened)))
sys.stdout.write(f"ANSWERS {digest.hexdigest()}\n")
