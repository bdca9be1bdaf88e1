"""Make eight small SavedModels of kinds that the zoo of the parity gate does not have.

Usage: python more_models.py FOLDER   (with an environment's own Python and TensorFlow)
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf
from tensorflow.keras import Model, layers

tf.keras.utils.set_random_seed(7)


def residual() -> Model:
    """Residual blocks with depthwise convolutions and group normalisation."""
    seen = tf.keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same")(seen)
    for _ in range(2):
        y = layers.GroupNormalization(4)(layers.SeparableConv2D(16, 3, padding="same")(x))
        x = layers.add([x, layers.Activation("swish")(y)])
    return Model(seen, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def segmentation() -> Model:
    """Down and up again, with transposed convolutions and skips."""
    seen = tf.keras.Input((32, 32, 1))
    down = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(seen)
    lower = layers.Conv2D(16, 3, strides=2, padding="same", activation="elu")(down)
    up = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(lower)
    joined = layers.concatenate([up, down])
    return Model(seen, layers.Conv2D(2, 1, activation="softmax")(layers.UpSampling2D()(joined)))


def volumes() -> Model:
    """Three-dimensional convolutions and pooling."""
    seen = tf.keras.Input((8, 8, 8, 2))
    x = layers.MaxPooling3D()(layers.Conv3D(4, 3, activation="tanh")(seen))
    return Model(seen, layers.Dense(3, activation="sigmoid")(layers.Flatten()(x)))


def translation() -> Model:
    """Two embedded sequences, attention across, layer normalisation."""
    first, second = (tf.keras.Input((6,), dtype="int32") for _ in range(2))
    table = layers.Embedding(50, 16)
    a, b = table(first % 50), table(second % 50)
    crossed = layers.MultiHeadAttention(2, 8)(b, a, use_causal_mask=False)
    return Model([first, second], layers.Dense(50)(layers.LayerNormalization()(crossed + b)))


def series() -> Model:
    """Bidirectional GRU over a series, then dilated convolutions."""
    seen = tf.keras.Input((12, 4))
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(seen)
    return Model(seen, layers.Conv1D(3, 3, dilation_rate=2, padding="causal")(x))


class Graph(tf.Module):
    """A message-passing step over the edges of a graph."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2], tf.int32)])
    def serve(self, nodes: tf.Tensor, edges: tf.Tensor) -> dict[str, tf.Tensor]:
        """Add to each node the mean of those that lead to it."""
        count = tf.shape(nodes)[0]
        edges = tf.math.floormod(edges, count)
        sent = tf.gather(nodes, edges[:, 0])
        return {"nodes": nodes + tf.math.unsorted_segment_mean(sent, edges[:, 1], count)}


class Detection(tf.Module):
    """Boxes sorted by score, overlapping ones suppressed."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None])])
    def serve(self, boxes: tf.Tensor, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the indices of the boxes that stay and the best scores."""
        corners = tf.concat([boxes[:, :2], boxes[:, :2] + tf.abs(boxes[:, 2:])], 1)
        count = tf.minimum(tf.shape(corners)[0], tf.shape(scores)[0])
        kept = tf.image.non_max_suppression(corners[:count], scores[:count], 10)
        return {"kept": kept, "best": tf.math.top_k(scores, tf.minimum(2, count)).values}


class Sound(tf.Module):
    """A spectrogram on the mel scale."""

    @tf.function(input_signature=[tf.TensorSpec([None, 512])])
    def serve(self, wave: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return log-mel energies and cepstral coefficients."""
        power = tf.abs(tf.signal.stft(wave, 128, 64)) ** 2
        mel = power @ tf.signal.linear_to_mel_weight_matrix(20, 65, 8000)
        logs = tf.math.log(mel + 1e-6)
        return {"mel": logs, "mfcc": tf.signal.mfccs_from_log_mel_spectrograms(logs)}


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1])
    for make in (residual, segmentation, volumes, translation, series):
        make().export(str(folder / make.__name__))
    for module in (Graph(), Detection(), Sound()):
        place = folder / type(module).__name__.lower()
        tf.saved_model.save(module, str(place), signatures={"serving_default": module.serve})


if __name__ == "__main__":
    main()
