"""The root without a distribution: what is copied, what is missed, what packages say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from assemble_root import add_by_rules, expand, read_rules
from dpkg_records import add_package_records
from elf_closure import LOADER, system_libraries
from tree_copy import Root, follow

BUILD = Path(__file__).resolve().parents[3] / "dockerfiles" / "build"
needs_loader = pytest.mark.skipif(not LOADER.exists(), reason="needs glibc on x86-64")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A base image with a merged /usr, two packages and a chain of links."""
    old = tmp_path / "old"
    for path, text in {
        "usr/lib/libz.so.1.3": "zlib",
        "usr/share/zoneinfo/UTC": "utc",
        "usr/share/doc/zlib1g/copyright": "as /usr/share/common-licenses/Zlib says",
        "usr/share/common-licenses/Zlib": "do as you like",
        "usr/share/doc/tzdata-legacy/copyright": "none",
        "etc/ssl/certs/ca-certificates.crt": "certificates",
        "var/lib/dpkg/info/zlib1g:amd64.list": "/.\n/lib\n/lib/libz.so.1\n/lib/libz.so.1.3\n",
        "var/lib/dpkg/info/zlib1g:amd64.md5sums": "aaa  lib/libz.so.1.3\nbbb  lib/not-copied\n",
        "var/lib/dpkg/info/other.list": "/usr/bin/other\n",
        "var/lib/dpkg/status": "Package: zlib1g\nVersion: 1:1.3\n\nPackage: other\nVersion: 2\n",
    }.items():
        (old / path).parent.mkdir(parents=True, exist_ok=True)
        (old / path).write_text(text)
    (old / "lib").symlink_to("usr/lib")
    (old / "usr/lib/libz.so.1").symlink_to("libz.so.1.3")
    (old / "usr/share/doc/link").symlink_to("/usr/share/doc/zlib1g")
    return old


@pytest.fixture
def root(old: Path, tmp_path: Path) -> Root:
    (tmp_path / "new").mkdir()
    return Root(tmp_path / "new", str(old))


def files(root: Root) -> set[str]:
    paths = (path for path in root.folder.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(root.folder)) for path in paths}


def test_links_stay_links_and_lead_to_what_they_led_to(root: Root) -> None:
    root.add("/lib/libz.so.1")
    assert files(root) == {"lib", "usr/lib/libz.so.1", "usr/lib/libz.so.1.3"}
    assert (root.folder / "lib/libz.so.1").read_text() == "zlib"
    assert (root.folder / "lib").readlink() == Path("usr/lib")


def test_absolute_links_are_followed_inside_the_root(root: Root) -> None:
    assert follow(root.old, "/usr/share/doc/link/copyright")[0] == "/usr/share/doc/zlib1g/copyright"
    root.add("/usr/share/doc/link")
    assert "usr/share/doc/zlib1g/copyright" in files(root)


def test_a_path_that_is_not_there_ends_the_run(root: Root) -> None:
    with pytest.raises(SystemExit, match=r"/usr/lib/libgone\.so is missing"):
        root.add("/lib/libgone.so")


def test_a_link_that_leads_nowhere_ends_the_run(root: Root, old: Path) -> None:
    (old / "loop").symlink_to("loop")
    (old / "dangling").symlink_to("/nowhere")
    for name in ("/loop", "/dangling"):
        with pytest.raises(SystemExit, match="is not there"):
            root.add(name)


def test_patterns_leave_out_what_they_name(root: Root, old: Path) -> None:
    for path in ("a.py", "test/x.py", "sub/test/x.py", "ext/_test1.so", "ext/real.so", "_test.py"):
        (old / "py" / path).parent.mkdir(parents=True, exist_ok=True)
        (old / "py" / path).touch()
    root.add("/py", ["test", "ext/_test*"])
    assert files(root) == {"py/a.py", "py/ext/real.so", "py/_test.py"}


def test_rules_are_a_word_a_pattern_and_a_reason() -> None:
    lines = ("# note", "keep /a/*  why", "try /b  why", "folder /tmp:1777  why", "link /c:/d  why")
    rules = read_rules("\n".join((*lines, "without test  why")))
    assert (rules.keep, rules.optional, rules.without) == (["/a/*"], ["/b"], ["test"])
    assert (rules.folders, rules.links) == ({"/tmp": 0o1777}, {"/c": "/d"})
    for wrong in ("keep /a", "kep /a why"):
        with pytest.raises(SystemExit, match=r"a rule needs|unknown word"):
            read_rules(wrong)


def test_the_committed_rules_can_be_read() -> None:
    rules = read_rules((BUILD / "root.txt").read_text())
    assert "/etc/debian_version" in rules.keep
    assert rules.folders["/tmp"] == 0o1777
    assert not any("__pycache__" in path for path in rules.keep)


def test_what_has_to_be_kept_has_to_be_there(root: Root) -> None:
    rules = read_rules(
        "keep /usr/share/zoneinfo  why\ntry /not/there  why\nfolder /tmp:1777  why\n"
    )
    add_by_rules(root, rules)
    assert {"usr/share/zoneinfo/UTC", "etc/passwd", "etc/nsswitch.conf"} <= files(root)
    assert (root.folder / "tmp").stat().st_mode & 0o7777 == 0o1777
    with pytest.raises(SystemExit, match=r"no /etc/debian_\*, which has to be kept"):
        add_by_rules(root, read_rules("keep /etc/debian_*  why\n"))


def test_patterns_are_expanded_inside_the_root(old: Path) -> None:
    assert expand(str(old), "/usr/lib/libz*") == ["/usr/lib/libz.so.1", "/usr/lib/libz.so.1.3"]


def test_packages_of_copied_files_bring_their_record_and_licence(root: Root) -> None:
    root.add("/lib/libz.so.1")
    assert add_package_records(root) == ["zlib1g"]
    status = root.folder / "var/lib/dpkg/status.d"
    assert (status / "zlib1g").read_text() == "Package: zlib1g\nVersion: 1:1.3\n"
    assert (status / "zlib1g.md5sums").read_text() == "aaa  lib/libz.so.1.3\n"
    assert {"usr/share/doc/zlib1g/copyright", "usr/share/common-licenses/Zlib"} <= files(root)
    assert not (status / "other").exists()


def test_a_package_without_licence_ends_the_run(root: Root, old: Path) -> None:
    root.add("/lib/libz.so.1")
    (old / "usr/share/doc/zlib1g/copyright").unlink()
    with pytest.raises(SystemExit, match="the licence of zlib1g"):
        add_package_records(root)


@needs_loader
def test_the_loader_says_what_a_program_needs(tmp_path: Path) -> None:
    needed = system_libraries([tmp_path], [Path(sys.executable).resolve()])
    assert any(Path(path).name.startswith("libc.so") for path in needed)


@needs_loader
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
class TestLibrariesOfATree:
    """A tree with a library of its own, and one that needs it."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        tree = tmp_path / "tree"
        tree.mkdir()
        self.library(tree, "libown.so", "int own(void) { return 1; }")
        self.library(
            tree, "libuser.so", "int own(void); int use(void) { return own(); }", "libown.so"
        )
        return tree

    def library(self, tree: Path, name: str, code: str, *needs: str) -> None:
        (tree / "x.c").write_text(code)
        command = ["cc", "-shared", "-fPIC", "-o", name, "x.c", *(f"-l:{need}" for need in needs)]
        subprocess.run([*command, "-L.", "-Wl,-rpath,$ORIGIN"], cwd=tree, check=True)
        (tree / "x.c").unlink()

    def test_its_own_libraries_are_not_the_systems(self, tree: Path) -> None:
        assert not [path for path in system_libraries([tree], []) if "own" in path]

    def test_one_that_is_missing_is_named(self, tree: Path) -> None:
        (tree / "libown.so").unlink()
        with pytest.raises(SystemExit, match=r"libown\.so for .*libuser\.so"):
            system_libraries([tree], [])

    def test_the_drivers_come_from_the_host(self, tree: Path) -> None:
        self.library(tree, "libcuda.so.1", "int cuda(void) { return 1; }")
        self.library(
            tree, "libgpu.so", "int cuda(void); int g(void) { return cuda(); }", "libcuda.so.1"
        )
        (tree / "libcuda.so.1").unlink()
        system_libraries([tree], [])

    def test_what_needs_no_library_is_passed_over(self, tree: Path) -> None:
        (tree / "x.c").write_text("int main(void) { return 0; }")
        for options in (["-static", "-o", "program"], ["-c", "-o", "object.o"]):
            subprocess.run(["cc", *options, "x.c"], cwd=tree, check=True)
        (tree / "cut").write_bytes((tree / "program").read_bytes()[:30])
        system_libraries([tree], [])
