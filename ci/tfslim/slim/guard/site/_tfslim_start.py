"""Start levers: what makes the import of TensorFlow faster, without a change of any program.

**Collector.** Importing TensorFlow makes some 380,000 objects and next to no garbage, and Python's
cyclic garbage collector goes through them again and again meanwhile. Here it rests until the import
has ended, and what exists then is set aside (`gc.freeze`), so that no later collection visits it.

**Later.** TensorFlow imports Keras at the end of its own import, and before that a whole second
copy of its names (`tf.compat`), and inside itself an older Keras, for a few names of `tf.nn`,
`tf.train` and `tf.feature_column`. Each is imported when a program first uses it instead.
TensorFlow itself has Keras come later (`KerasLazyLoader`), and takes an import that fails for one
that was not wanted. The others are packages of names; the code lies in modules that any import
finds as ever. All that these register when they are imported, and others ask for, is the older
Keras' optimizer, for `tf.saved_model.load`: it is imported when that looks it up (`defer`).
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# A program that has made more objects before may need the collector to find some of them later.
_MOST_OBJECTS = 200_000
# From here on a module that is loaded on first use may be used by several threads at once
# (python/cpython#117178).
_LAZY_PYTHON = (3, 13)
# None that has the name of a folder of TensorFlow's, `distribute` and `lite`: that folder, imported
# later, would take the place of the names.
_LATER = frozenset(
    f"tensorflow._api.v2.{name}"
    for name in (
        *("compat", "data", "feature_column", "lookup", "mlir", "nn", "profiler", "signal"),
        *("summary", "test", "train", "xla", "__internal__.feature_column", "__internal__.test"),
    )
)
_REGISTRY = "tensorflow.python.saved_model.revived_types"
_OPTIMIZERS = "tensorflow.python.keras.optimizer_v2.optimizer_v2"
_OPTIMIZER = "tf_deprecated_optimizer"  # what that module registers


def wants_rest() -> bool:
    """True where the collector runs as Python sets it up; TFSLIM_GC=off leaves it alone."""
    if os.environ.get("TFSLIM_GC", "on").strip().lower() == "off":
        return False
    return gc.isenabled() and gc.get_threshold()[0] > 0


@contextmanager
def rest() -> Iterator[None]:
    """Let the collector rest, then have it work as before, whatever is raised inside.

    It rests by a threshold of 0 (`gc.set_threshold`): `gc.isenabled` and `gc.enable` keep their
    meaning for whoever uses them meanwhile, and a threshold set meanwhile stays.
    """
    thresholds = gc.get_threshold()
    resting = (0, *thresholds[1:])
    few = len(gc.get_objects()) < _MOST_OBJECTS
    gc.set_threshold(*resting)
    try:
        yield
        if few:
            gc.freeze()
    finally:
        if gc.get_threshold() == resting:
            gc.set_threshold(*thresholds)


def _is_import() -> bool:
    """True when an import asks: not `find_spec`, by which TensorFlow looks where Keras lies."""
    # This function, Later.find_spec, importlib's _find_spec, and who called that.
    frame = sys._getframe(3)
    return frame.f_code.co_name == "_find_and_load_unlocked"


class Later:
    """Asked before all other finders while TensorFlow is imported."""

    @staticmethod
    def find_spec(name: str, where: Any = None, target: Any = None) -> Any:
        """Find what is loaded when it is used; refuse Keras, which is asked for again then.

        Raises:
            ModuleNotFoundError: For Keras.
        """
        if name == "keras" and _is_import():
            raise ModuleNotFoundError("tfslim: Keras is imported when it is used", name=name)
        if name not in _LATER or sys.version_info < _LAZY_PYTHON:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, where, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def wants_later() -> bool:
    """True unless TFSLIM_LAZY=off, or Keras is not the one that TensorFlow brings."""
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "") in ("true", "True", "1")
    return os.environ.get("TFSLIM_LAZY", "on").strip().lower() != "off" and not legacy


@contextmanager
def later() -> Iterator[None]:
    """Have modules that few programs use imported on first use, if they are asked for inside."""
    sys.meta_path.insert(0, Later)
    try:
        yield
        defer()
    finally:
        sys.meta_path.remove(Later)


class Deferred:
    """Registrations of a module that is imported when somebody looks at them."""

    def __init__(self, registry: dict[str, Any]) -> None:
        self._registry = registry

    def __iter__(self) -> Iterator[Any]:
        """Import the module, which puts its own registrations in the place of these; yield them."""
        importlib.import_module(_OPTIMIZERS)
        found = self._registry[_OPTIMIZER][1]
        return iter(() if found is self else found)


def defer() -> None:
    """Keep a place for what the older Keras registers when it is imported."""
    registry = getattr(sys.modules.get(_REGISTRY), "_REVIVED_TYPE_REGISTRY", None)
    if isinstance(registry, dict) and _OPTIMIZERS not in sys.modules:
        registry.setdefault(_OPTIMIZER, (lambda _: False, Deferred(registry)))


def faster(spec: Any) -> Any:
    """Return TensorFlow's spec, changed so that the module is executed with less to do."""
    loader = spec.loader
    execute = loader.exec_module

    def exec_module(module: Any) -> None:
        # The loader is as it was from here on: whoever looks at it later finds nothing unusual.
        del loader.exec_module
        with ExitStack() as levers:
            if wants_rest():
                levers.enter_context(rest())
            if wants_later():
                levers.enter_context(later())
            execute(module)

    loader.exec_module = exec_module
    return spec
