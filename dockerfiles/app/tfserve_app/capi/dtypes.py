"""TensorFlow's types by number. What carries them in NumPy: `arrays`.

The numbers are those of TF_DataType in tensorflow/c/tf_datatype.h, which are those of the enum
DataType in tensorflow/core/framework/types.proto.
"""

from __future__ import annotations

__all__ = ["BFLOAT16", "NAMES", "STRING", "plain_number"]

STRING = 7
BFLOAT16 = 14

_REFERENCE = 100  # types.proto: DT_FLOAT_REF is DT_FLOAT + 100, and so on

NAMES: dict[int, str] = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    STRING: "string",
    8: "complex64",
    9: "int64",
    10: "bool",
    11: "qint8",
    12: "quint8",
    13: "qint32",
    BFLOAT16: "bfloat16",
    15: "qint16",
    16: "quint16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    20: "resource",
    21: "variant",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
    33: "float4_e2m1fn",
}


def plain_number(number: int) -> int:
    """Return the type that a reference type of TensorFlow 1 refers to, or the type itself."""
    return number - _REFERENCE if number > _REFERENCE else number
