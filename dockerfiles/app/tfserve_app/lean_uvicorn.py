"""What this service uses of Uvicorn, without Uvicorn's command line.

`uvicorn/__init__.py` imports the command line, and with it click and multiprocessing: about a
quarter of what HTTP costs at a start. So the package is entered here as a module whose code never
runs; its other modules are found as ever. A program that has imported Uvicorn keeps what it has.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if "uvicorn" not in sys.modules and (_spec := PathFinder.find_spec("uvicorn")) is not None:
    sys.modules["uvicorn"] = module_from_spec(_spec)

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server, ServerState

# What its own code would have set, and its other modules import from it.
vars(sys.modules["uvicorn"]).update(Config=Config, Server=Server)

__all__ = ["Config", "HttpToolsProtocol", "Server", "ServerState"]
