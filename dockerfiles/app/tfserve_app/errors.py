"""What can go wrong, apart from a client's request (that is `tensors.RequestError`)."""

__all__ = ["BackendBusyError", "InputRejectedError", "ModelLoadError", "SettingsError"]


class SettingsError(ValueError):
    """An environment variable holds a value that cannot be used; the message says which."""


class ModelLoadError(Exception):
    """The model cannot be served; the message is one line: path, reason, hint."""


class InputRejectedError(Exception):
    """The model itself refused well-formed input (sizes that do not fit inside its graph)."""


class BackendBusyError(Exception):
    """There is not enough memory for this request now."""
