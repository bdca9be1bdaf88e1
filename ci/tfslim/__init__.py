"""tfslim: GPU TensorFlow containers made small, fast to start, and proved still right."""

__version__ = "0.1.0"
