"""Options that a verb gets as one value: what belongs together is read, checked and named once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import reduce, wraps
from typing import Any, TypeVar, cast

__all__ = ["gathered"]

_F = TypeVar("_F", bound=Callable[..., object])


def gathered(
    name: str,
    make: Callable[..., object],
    options: Sequence[Callable[[Callable[..., object]], Callable[..., object]]],
) -> Callable[[_F], _F]:
    """Return a decorator that gives a verb options; it gets one value in their place.

    Args:
        name: Under which name the verb gets it.
        make: Makes it of the options' values; its parameters are named as they are.
        options: Of click, in the order in which help shows them.
    """
    names = tuple(inspect.signature(make).parameters)

    def give(function: _F) -> _F:
        @wraps(function)
        def call(*args: Any, **given: Any) -> object:
            made = make(**{option: given.pop(option) for option in names})
            return function(*args, **{name: made}, **given)

        return cast("_F", reduce(lambda inner, option: option(inner), reversed(options), call))

    return give
