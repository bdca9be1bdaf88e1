"""Protocol Buffers' wire format: a small, strict reader, and a writer for a few kinds of field.

A message is a row of fields, each a tag (number and wire type) and a value. All that is read here
are numbers and length-delimited values: text, bytes and messages inside messages.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = [
    "Message",
    "Value",
    "WireError",
    "encode_bool",
    "encode_bytes",
    "encode_double",
    "encode_entry",
    "encode_int",
]

Value = int | memoryview

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10  # 64 bits, 7 in each byte


class WireError(ValueError):
    """These bytes are not the message that was expected; the text says where and why."""


class Message:
    """One message, read when it is asked for; values inside are views, never copies.

    Args:
        data: The encoded message.

    Raises:
        WireError: From every method: cut short, a group, an impossible number, a field of
            another type, or a single field that is there twice.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)

    def fields(self) -> Iterator[tuple[int, Value]]:
        """Yield each field's number and value, in order."""
        data, end, at = self.data, len(self.data), 0
        while at < end:
            tag, at = data[at], at + 1
            if tag > 0x7F:  # most tags and sizes are one byte, and a graph has many thousands
                tag, at = _varint(data, at - 1)
            number, kind = tag >> 3, tag & 7
            if number == 0 or number >= 1 << 29:
                raise WireError(f"field number {number} at byte {at}")
            if kind == _VARINT:
                value, at = _varint(data, at)
                yield number, value
                continue
            size = _FIXED_BYTES.get(kind, -1)
            if kind == _LENGTH:
                size = data[at] if at < end else 0x80
                size, at = (size, at + 1) if size < 0x80 else _varint(data, at)
            if size < 0:
                raise WireError(f"field {number} has the unknown wire type {kind}")
            if size > end - at:
                raise WireError(f"field {number} has {size} bytes, and {end - at} are left")
            yield number, data[at : at + size]
            at += size

    def all(self, number: int) -> Iterator[Value]:
        """Yield all values of one field."""
        return (value for found, value in self.fields() if found == number)

    def messages(self, number: int) -> Iterator[Message]:
        """Yield the messages of a repeated field."""
        return (Message(_view(value, number)) for value in self.all(number))

    def texts(self, number: int) -> Iterator[str]:
        """Yield the texts of a repeated field."""
        return (_text(value, number) for value in self.all(number))

    def message(self, number: int) -> Message | None:
        """Return the message of a single field; None where it is not set."""
        value = self._single(number)
        return None if value is None else Message(_view(value, number))

    def text(self, number: int) -> str:
        """Return the text of a single field; empty where it is not set."""
        value = self._single(number)
        return "" if value is None else _text(value, number)

    def number(self, number: int) -> int:
        """Return the number of a single field (int32, int64, bool, enum); 0 where it is not set."""
        value = self._single(number)
        if value is None:
            return 0
        if not isinstance(value, int):
            raise WireError(f"field {number} is no number")
        return value - (1 << 64) if value >> 63 else value  # two's complement

    def map(self, number: int) -> Iterator[tuple[str, Message]]:
        """Yield the entries of a field `map<string, some message>`.

        An entry is a message with the key as field 1 and the value as field 2; a value that is
        not set is an empty message.
        """
        for entry in self.messages(number):
            yield entry.text(1), entry.message(2) or Message(b"")

    def _single(self, number: int) -> Value | None:
        values = list(self.all(number))
        if len(values) > 1:
            raise WireError(f"field {number} is there {len(values)} times")
        return values[0] if values else None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where the next byte is."""
    value = 0
    for index in range(_VARINT_BYTES):
        if at + index >= len(data):
            raise WireError(f"a number at byte {at} is cut short")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + index + 1
    raise WireError(f"a number at byte {at} is longer than 64 bits")


def _view(value: Value, number: int) -> memoryview:
    if isinstance(value, int):
        raise WireError(f"field {number} is a number")
    return value


def _text(value: Value, number: int) -> str:
    try:
        return bytes(_view(value, number)).decode()
    except UnicodeDecodeError:
        raise WireError(f"field {number} is no UTF-8 text") from None


def encode_int(number: int, value: int) -> bytes:
    """Return a field with a number (int32, int64, enum)."""
    return _tag(number, _VARINT) + _number(value & (1 << 64) - 1)


def encode_bool(number: int, value: bool) -> bytes:
    """Return a field with a truth value."""
    return encode_int(number, int(value))


def encode_double(number: int, value: float) -> bytes:
    """Return a field with a double."""
    return _tag(number, _FIXED64) + struct.pack("<d", value)


def encode_bytes(number: int, value: bytes) -> bytes:
    """Return a field with bytes, UTF-8 text or an encoded message."""
    return _tag(number, _LENGTH) + _number(len(value)) + value


def encode_entry(number: int, key: str, value: int) -> bytes:
    """Return an entry of a field `map<string, int32>`."""
    return encode_bytes(number, encode_bytes(1, key.encode()) + encode_int(2, value))


def _tag(number: int, kind: int) -> bytes:
    return _number(number << 3 | kind)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
