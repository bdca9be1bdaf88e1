"""A backend without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfserve_app.backend import Array, BackendInfo, Signature, TensorSpec


class FakeBackend:
    """Answers arithmetic; `on_predict` can raise or wait instead."""

    info = BackendInfo("fake", "9.9", ("GPU of paper",))
    timings: Mapping[str, float] = {"import_s": 0.1, "load_s": 0.2}
    marks: Mapping[str, float] = {"tensorflow_imported": 1.0, "model_loaded": 2.0}
    signatures: Mapping[str, Signature] = {
        "serving_default": Signature(
            {"x": TensorSpec("float32", (-1, 2))}, {"y": TensorSpec("float32", (-1, 2))}
        ),
        "two": Signature(
            {"a": TensorSpec("int32", (-1,)), "b": TensorSpec("string", (-1,))},
            {"doubled": TensorSpec("int32", (-1,)), "raw_bytes": TensorSpec("string", (-1,))},
        ),
        "total": Signature({"x": TensorSpec("float32", None)}, {"sum": TensorSpec("float32", ())}),
        "spectrum": Signature(
            {"x": TensorSpec("float32", (-1,))}, {"z": TensorSpec("complex64", (-1,))}
        ),
    }

    def __init__(self) -> None:
        self.on_predict: Callable[[str], None] = lambda _: None
        self.calls: list[str] = []

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append(signature)
        self.on_predict(signature)
        match signature:
            case "serving_default":
                return {"y": np.asarray(inputs["x"], np.float32) * np.float32(2)}
            case "two":
                return {
                    "doubled": np.asarray(inputs["a"], np.int32) * np.int32(2),
                    "raw_bytes": inputs["b"],
                }
            case "total":
                return {"sum": np.asarray(np.asarray(inputs["x"], np.float32).sum())}
            case _:
                return {"z": np.asarray(inputs["x"], np.float32) * np.complex64(1j)}
