"""What tfslim took out of this environment says so, in place of a mystery.

`_tfslim.pth` imports this at every start of the interpreter: all that is done then is to put two
finders in place. One checks the GPU when TensorFlow is first imported, and has it imported faster
(`_tfslim_start`); the other is asked last for modules that nobody else finds. In a container's
first process the files of its start are read ahead, too (`_tfslim_prefetch`). `python -m _tfslim`
lists what is gone and how to keep it.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` alone would take longer to import than all of this
    from typing import Any

# Python itself, or Debian's, asks for these at every start, and they are seldom there.
_AT_START = ("sitecustomize", "usercustomize", "apport_python_hook")
_PREFETCH = "/usr/share/tfslim/prefetch"


def _guard() -> "Any":
    import importlib  # noqa: PLC0415 (not before it is needed)

    return importlib.import_module("_tfslim_guard")


def check_model(model: "Any") -> None:
    """Refuse a model that needs ops whose libraries are gone; see `_tfslim_ops.check_model`."""
    import importlib  # noqa: PLC0415

    importlib.import_module("_tfslim_ops").check_model(model)


def check_machine() -> None:
    """End the process with one line where nothing that is left can run on this machine's GPUs.

    The first import of TensorFlow does this by itself; a program that uses TensorFlow's C API alone
    calls it before it opens the library.
    """
    if First in sys.meta_path:
        sys.meta_path.remove(First)
        _check()


def _check() -> None:
    try:
        problem = _guard().check()
    except Exception:  # noqa: BLE001 (a guard must not break what it guards)
        return
    if problem:
        _guard().leave(problem)


def _is_import() -> bool:
    """True when an import or `python -m` asks: not `find_spec`, which programs use to look."""
    try:
        # This function, find_spec, importlib's _find_spec, and who called that.
        caller = sys._getframe(3)
    except ValueError:
        return False
    above = caller.f_back
    runs = above is not None and above.f_code.co_name == "_get_module_details"
    return runs or caller.f_code.co_name == "_find_and_load_unlocked"


def _is_from() -> bool:
    """True within `from package import module`, which takes an error of that name for a detail."""
    frame = sys._getframe(2)
    while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
        if frame.f_code.co_name == "_handle_fromlist":
            return True
        frame = frame.f_back
    return False


class First:
    """Asked before all others: checks the GPU once, on the first import of TensorFlow."""

    @classmethod
    def find_spec(cls, name: str, *where: "Any", **more: "Any") -> "Any":
        """Find nothing, but TensorFlow as others find it, to be imported faster."""
        if name != "tensorflow" or not _is_import() or cls not in sys.meta_path:
            return None
        sys.meta_path.remove(cls)
        try:
            problem = _guard().check()
        except Exception:  # noqa: BLE001 (a guard must not break what it guards)
            problem = ""
        if problem:
            _guard().leave(problem)
        try:
            return _faster(name, *where, **more)
        except Exception:  # noqa: BLE001
            return None


def _faster(name: str, *where: "Any", **more: "Any") -> "Any":
    """Return what other finders find, to be executed with less to do."""
    import importlib  # noqa: PLC0415

    start = importlib.import_module("_tfslim_start")
    for finder in [one for one in sys.meta_path if one is not Last]:
        spec = finder.find_spec(name, *where, **more)
        if spec is not None:
            return start.faster(spec)
    return None


class Last:
    """Asked when no other finder knows a module: names the rule that removed it."""

    @classmethod
    def find_spec(cls, name: str, *where: "Any", **more: "Any") -> "Any":
        """Find nothing itself; say why a module is gone, unless a later finder knows it."""
        if name in _AT_START or not _is_import():
            return None
        try:
            why = _guard().explain(name)
        except Exception:  # noqa: BLE001
            return None
        if not why:
            return None
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:  # six.moves, for instance
            spec = finder.find_spec(name, *where, **more)
            if spec is not None:
                return spec
        raise ModuleNotFoundError(why, name=None if _is_from() else name)


def _read_ahead() -> None:
    """Replay the prefetch list in the process that a container begins with.

    That one has no parent there, or the `--init` of its runtime; what it reads is in memory for all
    others.
    """
    if os.getppid() > 1 or os.environ.get("TFSLIM_PREFETCH", "on").strip().lower() == "off":
        return
    if os.path.exists(_PREFETCH):  # noqa: PTH110 (pathlib is not loaded yet)
        import _tfslim_prefetch  # type: ignore[import-not-found] # noqa: PLC0415

        _tfslim_prefetch.begin(_PREFETCH)


if __name__ == "__main__":
    _guard().tell()
else:
    try:  # noqa: SIM105 (contextlib is not loaded yet)
        _read_ahead()
    except Exception:  # noqa: BLE001, S110 (faster or not, it starts)
        pass
    sys.meta_path.insert(0, First)
    sys.meta_path.append(Last)
