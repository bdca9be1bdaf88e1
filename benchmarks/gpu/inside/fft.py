"""Fourier transforms: lengths with all kinds of prime factors, dimensions, types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Case, Settings, quick, rng

_LENGTHS = (2, 8, 100, 127, 243, 1000, 1024, 2187, 4099, 6000, 16384, 65536)


def cases(tf: Any, np: Any, settings: Settings) -> Iterator[Case]:
    """Yield the suite's cases."""
    yield from quick(settings, _one_dimension(tf, np), 4)
    yield from quick(settings, _more_dimensions(tf, np), 3)


def _tolerance(dtype: str) -> float:
    return 1e-11 if dtype in ("float64", "complex128") else 2e-5


def _one_dimension(tf: Any, np: Any) -> Iterator[Case]:
    for dtype, real in (("complex64", "float32"), ("complex128", "float64")):
        for length in _LENGTHS:
            name = f"{length}"
            random = rng(np, name)
            parts = random.standard_normal((2, 3, length))
            x = tf.constant(parts[0] + 1j * parts[1], dtype)
            flat = tf.constant(parts[0], real)
            wide, wide_flat = x.numpy().astype("complex128"), flat.numpy().astype("float64")
            near = _tolerance(dtype)
            yield Case(
                f"fft {name} {dtype}",
                dtype,
                lambda x=x: tf.signal.fft(x),
                lambda wide=wide: np.fft.fft(wide),
                near,
                ("FFT",),
            )
            yield Case(
                f"ifft of fft {name} {dtype}",
                dtype,
                lambda x=x: tf.signal.ifft(tf.signal.fft(x)),
                lambda wide=wide: wide,
                near,
                ("FFT", "IFFT"),
            )
            yield Case(
                f"rfft {name} {real}",
                real,
                lambda flat=flat: tf.signal.rfft(flat),
                lambda wide=wide_flat: np.fft.rfft(wide),
                near,
                ("RFFT",),
            )
            spectrum = tf.constant(np.fft.rfft(wide_flat), dtype)
            yield Case(
                f"irfft {name} {real}",
                real,
                lambda s=spectrum, n=length: tf.signal.irfft(s, [n]),
                lambda wide=wide_flat: wide,
                near,
                ("IRFFT",),
            )


def _more_dimensions(tf: Any, np: Any) -> Iterator[Case]:
    for shape, work, right in (
        ((64, 60), tf.signal.fft2d, np.fft.fft2),
        ((3, 17, 32), tf.signal.fft2d, np.fft.fft2),
        ((12, 10, 14), tf.signal.fft3d, np.fft.fftn),
        ((40, 36), tf.signal.rfft2d, np.fft.rfft2),
    ):
        random = rng(np, f"{shape}")
        real = work is tf.signal.rfft2d
        array = random.standard_normal(shape)
        given = array if real else array + 1j * random.standard_normal(shape)
        dtype = "float32" if real else "complex64"
        x = tf.constant(given, dtype)
        yield Case(
            f"{work.__name__} {shape} {dtype}",
            dtype,
            lambda x=x, work=work: work(x),
            lambda x=x, right=right: right(_wide(x.numpy())),
            _tolerance(dtype),
            ("RFFT2D",) if real else ("FFT2D", "FFT3D"),
        )
    frames = tf.constant(rng(np, "stft").standard_normal(4096), "float32")
    yield Case(
        "stft and back float32",
        "float32",
        lambda: tf.signal.inverse_stft(
            tf.signal.stft(frames, 256, 64),
            256,
            64,
            window_fn=tf.signal.inverse_stft_window_fn(64),
        )[256:3800],
        lambda: frames.numpy().astype("float64")[256:3800],
        2e-5,
        ("RFFT", "IRFFT"),
    )


def _wide(array: Any) -> Any:
    return array.astype("complex128" if array.dtype.kind == "c" else "float64")
