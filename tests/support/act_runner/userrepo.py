"""A throw-away repository of a user of the action, with a history that pull requests need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["UserRepo"]

_WHO = {
    "GIT_AUTHOR_NAME": "Mona",
    "GIT_AUTHOR_EMAIL": "mona@example.com",
    "GIT_COMMITTER_NAME": "Mona",
    "GIT_COMMITTER_EMAIL": "mona@example.com",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


class UserRepo:
    """A git repository whose origin says that it is octo-org/demo on GitHub.

    Args:
        folder: Where to make it.
        name: OWNER/NAME.
    """

    def __init__(self, folder: Path, name: str = "octo-org/demo") -> None:
        self.folder = folder
        self.name = name
        folder.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", f"https://github.com/{name}.git")

    def git(self, *args: str) -> str:
        """Run git here; return what it printed, without the last line break."""
        # Nothing of the caller's environment: a hook of its own would have GIT_DIR set.
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **_WHO}
        done = subprocess.run(
            ["git", *args], cwd=self.folder, env=env, check=True, capture_output=True, text=True
        )
        return done.stdout.rstrip("\n")

    def write(self, files: dict[str, str | bytes]) -> None:
        """Write files by their paths."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(data)

    def commit(self, files: dict[str, str | bytes] | None = None, message: str = "Change") -> str:
        """Write files, commit everything and return the commit."""
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.head

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "HEAD")

    def branch(self, name: str) -> None:
        """Begin a branch at what is checked out."""
        self.git("checkout", "-q", "-b", name)

    def switch(self, name: str) -> None:
        """Check a branch out."""
        self.git("checkout", "-q", name)
