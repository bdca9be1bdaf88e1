"""The request and answer forms of TensorFlow Serving's REST interface.

Rows (`instances` → `predictions`) and columns (`inputs` → `outputs`) as described in
https://www.tensorflow.org/tfx/serving/api_rest; a single tensor is written without its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfserve_app.backend import Array, Signature, TensorSpec
from tfserve_app.tensors import RequestError, json_value, tensor_from_json

__all__ = [
    "Request",
    "check_names",
    "column_inputs",
    "metadata",
    "parse_inputs",
    "render",
    "status",
]

_TF_ENUM = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}


@dataclass(frozen=True)
class Request:
    """The tensors of a predict request, and the form its answer takes."""

    inputs: dict[str, Array]
    rows: bool


def parse_inputs(body: Mapping[str, object], signature: Signature) -> Request:
    """Read the tensors of a predict request, in row or column form.

    Raises:
        RequestError: Neither or both forms, or tensors that do not fit the signature.
    """
    if ("instances" in body) == ("inputs" in body):
        raise RequestError("exactly one of 'instances' (rows) and 'inputs' (columns) is expected")
    if "instances" in body:
        return Request(_row_inputs(body["instances"], signature), rows=True)
    return Request(column_inputs(body["inputs"], signature), rows=False)


def column_inputs(value: object, signature: Signature) -> dict[str, Array]:
    """Read named tensors, or the only tensor without its name.

    Raises:
        RequestError: Names are missing or unknown, or a tensor does not fit.
    """
    if not isinstance(value, dict) or _is_base64(value):
        value = {_only_input(signature, "'inputs'"): value}
    check_names(value, signature, "'inputs'")
    return {name: tensor_from_json(value[name], spec, name) for name, spec in _specs(signature)}


def render(outputs: Mapping[str, Array], *, rows: bool) -> dict[str, object]:
    """Return a prediction in the form its request had.

    Raises:
        RequestError: Rows were asked for, but an output has no row for each instance.
    """
    values = {name: json_value(array, name) for name, array in outputs.items()}
    if not rows:
        return {"outputs": next(iter(values.values())) if len(values) == 1 else values}
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if len(set(sizes.values())) != 1 or None in sizes.values():
        raise RequestError(
            f"the outputs have no common first dimension ({sizes}), so they cannot be returned "
            "as 'predictions'; send 'inputs' instead of 'instances'"
        )
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    columns = [value for value in values.values() if isinstance(value, list)]
    return {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*columns)]}  # noqa: B905


def status(version: str, *, available: bool) -> dict[str, object]:
    """Return what `GET /v1/models/{name}` answers."""
    return {
        "model_version_status": [
            {
                "version": version,
                "state": "AVAILABLE" if available else "LOADING",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def metadata(
    name: str, version: str, signatures: Mapping[str, Signature], default: str
) -> dict[str, object]:
    """Return what `GET /v1/models/{name}/metadata` answers.

    Beside TensorFlow Serving's form stands a plain one, `signatures` and `default_signature`,
    with NumPy's type names and numbers for dimensions (-1 where any size fits).
    """
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    key: {
                        "inputs": _tensor_infos(signature.inputs),
                        "outputs": _tensor_infos(signature.outputs),
                        "method_name": "tensorflow/serving/predict",
                    }
                    for key, signature in signatures.items()
                }
            }
        },
        "default_signature": default,
        "signatures": {key: signature.as_dict() for key, signature in signatures.items()},
    }


def _row_inputs(rows: object, signature: Signature) -> dict[str, Array]:
    """Read `instances`: one value, or one object of named values, for each row."""
    if not isinstance(rows, list) or not rows:
        raise RequestError("'instances' must be a list of at least one instance")
    if not isinstance(rows[0], dict) or _is_base64(rows[0]):
        return column_inputs({_only_input(signature, "each instance"): rows}, signature)
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(f"instance {index}: objects and plain values are mixed")
        check_names(row, signature, f"instance {index}")
    return {
        name: tensor_from_json([row[name] for row in rows], spec, name)
        for name, spec in _specs(signature)
    }


def _specs(signature: Signature) -> list[tuple[str, TensorSpec]]:
    return list(signature.inputs.items())


def _only_input(signature: Signature, where: str) -> str:
    """Return the name of the signature's only input."""
    if len(signature.inputs) != 1:
        names = ", ".join(sorted(signature.inputs))
        raise RequestError(f"{where} must be an object with the inputs: {names or '(none)'}")
    return next(iter(signature.inputs))


def check_names(value: Mapping[str, object], signature: Signature, where: str) -> None:
    """Check that a request names all of the signature's inputs, and no other.

    Raises:
        RequestError: It does not.
    """
    if set(value) != set(signature.inputs):
        want = ", ".join(f"{name} {spec}" for name, spec in sorted(signature.inputs.items()))
        got = ", ".join(sorted(repr(key)[:60] for key in list(value)[:20]))
        raise RequestError(f"{where} must have exactly the inputs: {want}; got: {got or 'none'}")


def _is_base64(value: Mapping[str, object]) -> bool:
    return set(value) == {"b64"} and isinstance(value["b64"], str)


def _tensor_infos(specs: Mapping[str, TensorSpec]) -> dict[str, object]:
    """Return tensors as the JSON form of TensorFlow's TensorInfo message."""
    return {
        name: {
            "dtype": f"DT_{_TF_ENUM.get(spec.dtype, spec.dtype.upper())}",
            "tensor_shape": {
                "dim": [{"size": str(size), "name": ""} for size in spec.shape or ()],
                "unknown_rank": spec.shape is None,
            },
            "name": name,
        }
        for name, spec in specs.items()
    }
