"""Carry out a plan: write each smaller file aside, prove it, and put it in place of the old one.

Knows no policy. A file is replaced by one rename, after its new content is on disk and proved; at
every moment, whatever ends the process, each name leads to the old file or to the finished new one.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from tfslim.errors import DiskError, InputError, SlimError, VerifyError
from tfslim.slim import layout, loader, scan, verify
from tfslim.slim.aot.store import Store
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import PAGE, Elf, FormatRefusedError
from tfslim.slim.pieces import Piece
from tfslim.slim.plan import Content, FilePlan, Plan
from tfslim.slim.pool import Pool
from tfslim.slim.stub.prove import stub_problems
from tfslim.slim.tree import TreeFile, sha256, tree_files
from tfslim.slim.unasked import asked_for
from tfslim.ui import Ui, human_bytes

__all__ = ["FileOutcome", "Outcome", "apply_plan"]

_ASIDE: Final = ".tfslim-aside"
_COPY_CHUNK: Final = 16 << 20
# Small files that one process copies at a time.
_BATCH: Final = 1000
_NEW_FILE_MODE: Final = 0o644
# 1980-01-01, the first that every archive format knows: equal runs, equal files.
_NEW_FILE_TIME_NS: Final = 315_532_800 * 10**9
# copy_file_range answers so where a file system cannot copy by itself.
_NO_KERNEL_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileOutcome(_Data):
    """What became of one file.

    Attributes:
        path: The file, relative to the tree.
        before: Bytes it had.
        after: Bytes it has.
        state: Rewritten and proved; deleted; made another name of the same content; given other
            content; made anew; or restored, which means that it is what it was.
        why: What spoke against the new file, where it was restored.
        loader: What the dynamic loader says of a file whose program headers or relocations changed:
            the "same" as of the original; "absent" where this machine has no loader for it. Empty
            where nothing changed that a loader reads.
        unpacked: Why relative relocations stay as they were although the plan packs them.
    """

    path: str
    before: int
    after: int
    state: Literal["verified", "deleted", "linked", "replaced", "added", "restored"]
    why: str = ""
    loader: Literal["same", "absent", ""] = ""
    unpacked: str = ""


class Outcome(_Data):
    """What became of a tree.

    Attributes:
        tree: The tree that is now smaller.
        tree_before: Bytes of its regular files before.
        tree_after: And after.
        files: What became of each file that the plan names.
    """

    tree: str
    tree_before: int
    tree_after: int
    files: tuple[FileOutcome, ...]

    @property
    def restored(self) -> tuple[FileOutcome, ...]:
        """The files that failed their proof and are as they were."""
        return tuple(item for item in self.files if item.state == "restored")

    def error(self) -> VerifyError | None:
        """Return the error to end with where a file had to be restored."""
        if not self.restored:
            return None
        return VerifyError(
            f"{len(self.restored)} of {len(self.files)} files failed their proof and were left as "
            "they were",
            why="\n".join(f"{item.path}: {item.why}" for item in self.restored),
            way_out="The rest of the tree is smaller and proved; nothing needs to be undone. "
            "Please report these files with the output of `tfslim inspect`.",
        )


@dataclass(frozen=True)
class _Work:
    """What one process needs to apply the plan to one file."""

    plan: FilePlan
    source: Path
    target: Path
    library_path: tuple[Path, ...]
    store: Path | None = None


def apply_plan(
    plan: Plan,
    tree: Path,
    output: Path | None = None,
    ui: Ui | None = None,
    *,
    jobs: int | None = None,
) -> Outcome:
    """Carry out a plan on the tree that it was made for.

    Args:
        plan: What to do.
        tree: The tree.
        output: A folder to be made, with the smaller copy; None works in the tree itself.
        ui: Where progress is shown.
        jobs: Processes to use; None for one per CPU.

    Raises:
        SlimError: A file is no longer the one planned for, or a new one asks for names that the
            plan hides; nothing was changed.
        InputError: The output exists, or lies within the tree; or code that was compiled for the
            plan is no longer in its cache.
        DiskError: There is not room enough.
    """
    with Pool(ui or Ui(quiet=True), jobs) as pool:
        _check_unchanged(plan, tree, pool)
        _check_compiled(plan)
        _check_unasked(plan, tree, pool)
        _check_room(plan, tree, output)
        if output is None:
            files = _apply_in_place(plan, tree, pool)
        else:
            files = _apply_to_copy(plan, tree, output, pool)
    return _outcome(plan, output or tree, files)


def _apply_in_place(plan: Plan, tree: Path, pool: Pool) -> list[FileOutcome]:
    _clear_aside(tree)
    with _times_kept(_folders_above(plan, tree)):
        files = _apply_files(plan, tree, tree, pool)
        _remove_emptied(plan, tree)
    return files


def _apply_to_copy(plan: Plan, tree: Path, output: Path, pool: Pool) -> list[FileOutcome]:
    _check_output(tree, output)
    draft = output.with_name(output.name + _ASIDE)
    with _removed_on_error(draft):
        _copy_rest(plan, tree, draft, pool)
        files = _apply_files(plan, tree, draft, pool)
        _remove_emptied(plan, draft)
        for source, copy in _folders(tree, draft):
            if copy.exists():
                shutil.copystat(source, copy, follow_symlinks=False)
        draft.rename(output)
    return files


def _outcome(plan: Plan, tree: Path, files: Sequence[FileOutcome]) -> Outcome:
    saved = sum(item.before - item.after for item in files)
    return Outcome(
        tree=str(tree),
        tree_before=plan.tree_bytes,
        tree_after=plan.tree_bytes - saved,
        files=tuple(sorted(files, key=lambda item: item.path)),
    )


# --- before anything is changed ---------------------------------------------------------------


def _check_unchanged(plan: Plan, tree: Path, pool: Pool) -> None:
    """Refuse unless every file is the one that was planned for, and the new ones are not there."""
    work = [(tree, item) for item in plan.files]
    names = [item.path for item in plan.files]
    same = pool.run(
        "Checking that the files are those of the plan",
        _is_unchanged,
        work,
        sizes=[item.size for item in plan.files],
        names=names,
    )
    changed = [name for name, good in zip(names, same, strict=True) if not good]
    if changed:
        raise SlimError(
            f"{len(changed)} files are not the ones that the plan was made for; nothing was done",
            why="\n".join(changed[:20]),
            way_out="Make the plan again on this tree.",
        )


def _is_unchanged(work: tuple[Path, FilePlan]) -> bool:
    tree, item = work
    path = tree / item.path
    if item.action == "add":
        folder = path.parent.resolve()
        return folder.is_dir() and folder.is_relative_to(tree.resolve()) and not _is_there(path)
    try:
        status = path.lstat()
        regular = stat.S_ISREG(status.st_mode) and status.st_size == item.size
        return regular and sha256(path) == item.sha256
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _check_compiled(plan: Plan) -> None:
    """Refuse where code that was compiled for the plan is not at hand any more."""
    if plan.aot is None:
        return
    store = Store(Path(plan.aot.cache))
    wanted = {new.key: new for item in plan.files for new in item.cuts.compiled}
    for new in wanted.values():
        store.read(new)


def _check_unasked(plan: Plan, tree: Path, pool: Pool) -> None:
    """Refuse where a file that came later asks for a name which the plan hides from it."""
    hidden = {item.path: item.cuts.hidden for item in plan.files if item.cuts.hidden}
    if not hidden:
        return
    gone = {item.path for item in plan.files if item.action != "rewrite"}
    with pool.ui.step("Looking who asks for exported names", None):
        files = [item for item in tree_files(tree) if item.names[0] not in gone]
        programs = [item.names[0] for item in files if scan.is_elf(item.at(tree))]
        asking = asked_for(tree, hidden, programs)
    if asking:
        raise SlimError(
            f"{len(asking)} files ask for names that the plan hides; nothing was done",
            why="\n".join(asking[:20]),
            way_out="Make the plan again on this tree: it then keeps those names.",
        )


def _check_room(plan: Plan, tree: Path, output: Path | None) -> None:
    """Refuse where the disk cannot hold what is written before anything old goes."""
    rewritten = sorted(
        (item.after for item in plan.files if item.action == "rewrite"), reverse=True
    )
    if output is None:
        need = sum(rewritten[: len(os.sched_getaffinity(0))])
        where = tree
    else:
        need = plan.tree_bytes - plan.saved
        where = output.absolute().parent
    free = shutil.disk_usage(where).free if where.exists() else 0
    if free < need:
        raise DiskError(
            f"{human_bytes(need)} are needed in {where} and {human_bytes(free)} are free",
            why="New files are written beside the old ones and proved before these go.",
            way_out="Free some space, or choose another folder with --output.",
        )


def _check_output(tree: Path, output: Path) -> None:
    resolved = output.resolve()
    if resolved == tree.resolve() or tree.resolve() in resolved.parents:
        raise InputError(f"{output} lies within {tree}", way_out="Choose a folder outside of it.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not empty", way_out="Choose a new folder.")
    if not resolved.parent.is_dir():
        raise InputError(f"{resolved.parent} is not a folder", way_out="Make it first.")


def _clear_aside(tree: Path) -> None:
    """Remove what an interrupted run left beside the files it was working on."""
    for folder, _, names in os.walk(tree):
        for name in names:
            if name.endswith(_ASIDE):
                Path(folder, name).unlink()


@contextlib.contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def _times_kept(folders: Iterable[Path]) -> Iterator[None]:
    """Give folders their times back, so that the same input gives the same tree."""
    times = [(folder, folder.stat()) for folder in folders]
    yield
    for folder, status in times:
        if folder.exists():
            os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))


def _folders_above(plan: Plan, tree: Path) -> set[Path]:
    """Return every folder that leads to a planned file, the tree's own included."""
    return {tree / folder for item in plan.files for folder in PurePosixPath(item.path).parents}


def _remove_emptied(plan: Plan, tree: Path) -> None:
    """Remove the folders that a deletion left empty.

    Python takes an empty folder for a package without code, and would import what is gone.
    """
    deleted = [item for item in plan.files if item.action == "delete"]
    names = {name for item in deleted for name in (item.path, *item.links)}
    folders = {folder for name in names for folder in PurePosixPath(name).parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        if folder.parts and not any((tree / folder).iterdir()):
            (tree / folder).rmdir()


# --- a copy of the tree -----------------------------------------------------------------------


def _copy_rest(plan: Plan, tree: Path, draft: Path, pool: Pool) -> None:
    """Copy everything that the plan does not touch; nothing is shared with the original."""
    planned = {name for item in plan.files for name in (item.path, *item.links)}
    files = [item for item in tree_files(tree) if item.names[0] not in planned]
    batches = [
        (tree, draft, files[start : start + _BATCH]) for start in range(0, len(files), _BATCH)
    ]
    _copy_folders(tree, draft)
    pool.run(
        "Copying what stays as it is",
        _copy_batch,
        batches,
        sizes=[sum(item.size for item in batch) for _, _, batch in batches],
        names=[batch[0].names[0] for _, _, batch in batches],
    )


def _copy_batch(work: tuple[Path, Path, Sequence[TreeFile]]) -> None:
    tree, draft, files = work
    for item in files:
        source = item.at(tree)
        first, *others = (draft / name for name in item.names)
        shutil.copy2(source, first, follow_symlinks=False)
        _own(first, source.lstat())
        for other in others:
            os.link(first, other)


def _folders(tree: Path, draft: Path) -> Iterator[tuple[Path, Path]]:
    for folder, _, _ in os.walk(tree):
        yield Path(folder), draft / Path(folder).relative_to(tree)


def _copy_folders(tree: Path, draft: Path) -> None:
    """Make the folders, and everything in them that is neither a folder nor a regular file."""
    for source, copy in _folders(tree, draft):
        copy.mkdir(parents=True)
        _own(copy, source.lstat())
        for entry in os.scandir(source):
            status = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                (copy / entry.name).symlink_to(Path(entry.path).readlink())
            elif not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                os.mknod(copy / entry.name, status.st_mode, status.st_rdev)
            else:
                continue
            _own(copy / entry.name, status)


def _own(path: Path, status: os.stat_result) -> None:
    """Give a new file the owner of the old one, where this process may."""
    with contextlib.suppress(PermissionError):
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


# --- one file ---------------------------------------------------------------------------------


# One after the other, so that a run after an interrupted one completes it: no bytecode is there of
# what a module was before; what explains a removal is there before it; while the loader is asked
# about a rewritten library, no library beside it comes or goes; lists of packages go last.
_STEPS: Final = (
    "Deleting bytecode",
    "Putting stand-ins in place",
    "Rewriting and proving",
    "Deleting and linking",
    "Deleting lists of packages",
)


def _step(item: FilePlan) -> str:
    bytecode, stand_ins, rewriting, deleting, lists = _STEPS
    if item.content is not None:
        return stand_ins
    if item.action == "rewrite":
        return rewriting
    if item.path.endswith(".pyc"):
        return bytecode
    return lists if PurePosixPath(item.path).parent.suffix == ".dist-info" else deleting


def _apply_files(plan: Plan, tree: Path, target: Path, pool: Pool) -> list[FileOutcome]:
    rewritten = {(tree / item.path).parent for item in plan.files if item.action == "rewrite"}
    folders = tuple(sorted(rewritten))
    store = Path(plan.aot.cache) if plan.aot else None
    done: list[FileOutcome] = []
    for title in _STEPS:
        files = [item for item in plan.files if _step(item) == title]
        if files:
            done += pool.run(
                title,
                _apply_one,
                [_Work(item, tree, target, folders, store) for item in files],
                sizes=[item.size for item in files],
                names=[item.path for item in files],
            )
    return done


def _apply_one(work: _Work) -> FileOutcome:
    """Apply the plan to one file and its other names."""
    item = work.plan
    source, target = work.source / item.path, work.target / item.path
    if item.action == "link":
        return _link_one(work)
    if item.content is not None:
        return _put_content(work, item.content)
    if item.action == "delete":
        for name in (item.path, *item.links):
            (work.target / name).unlink(missing_ok=True)
        return FileOutcome(path=item.path, before=item.size, after=0, state="deleted")
    aside = target.with_name(f".{target.name}{_ASIDE}")
    why = _write_proved(source, aside, work)
    if why:
        return _restored(work, aside, why)
    unpacked = _packed(source, aside, work) if item.cuts.packed else ""
    answer: Literal["same", "absent", ""] = ""
    if item.cuts.relocates:
        answer = "same" if loader.LOADER.exists() else "absent"
    after = aside.stat().st_size
    _put(aside, work)
    return FileOutcome(
        path=item.path,
        before=item.size,
        after=after,
        state="verified",
        loader=answer,
        unpacked=unpacked,
    )


def _restored(work: _Work, aside: Path, why: str) -> FileOutcome:
    """Leave a file what it is, also in a copy of the tree."""
    item = work.plan
    source, target = work.source / item.path, work.target / item.path
    aside.unlink(missing_ok=True)
    if not target.exists():
        shutil.copy2(source, aside)
        _own(aside, source.lstat())
        _put(aside, work)
    return FileOutcome(path=item.path, before=item.size, after=item.size, state="restored", why=why)


def _put_content(work: _Work, content: Content) -> FileOutcome:
    """Give a file other content, or make it, with its folder's owner; a stub where it is proved."""
    item = work.plan
    target = work.target / item.path
    aside = target.with_name(f".{target.name}{_ASIDE}")
    aside.unlink(missing_ok=True)
    aside.write_bytes(content.data)
    if item.action == "add":
        aside.chmod(_NEW_FILE_MODE)
    if any(removal.what in ("library", "program") for removal in item.removals):
        problems = stub_problems(work.source / item.path, aside)
        if problems:
            return _restored(work, aside, "; ".join(problems))
    _put(aside, work)
    state: Literal["replaced", "added"] = "added" if item.action == "add" else "replaced"
    return FileOutcome(path=item.path, before=item.size, after=item.after, state=state)


def _link_one(work: _Work) -> FileOutcome:
    """Make a file another name of the same content, compared at this moment."""
    item = work.plan
    source, kept = work.source / item.path, work.target / item.same_as
    same = kept.is_file() and filecmp.cmp(source, kept, shallow=False)
    if same:
        for name in (item.path, *item.links):
            _name(kept, work.target / name)
        return FileOutcome(path=item.path, before=item.size, after=0, state="linked")
    if work.target != work.source:
        shutil.copy2(source, work.target / item.path)
        for name in item.links:
            _name(work.target / item.path, work.target / name)
    return FileOutcome(
        path=item.path,
        before=item.size,
        after=item.size,
        state="restored",
        why=f"{item.same_as} is not the same any more",
    )


def _name(content: Path, name: Path) -> None:
    """Make a path another name of a file, whatever it named before."""
    spare = name.with_name(f".{name.name}{_ASIDE}")
    spare.unlink(missing_ok=True)
    os.link(content, spare)
    spare.replace(name)


def _write_proved(source: Path, aside: Path, work: _Work) -> str:
    """Write the new file aside; return what speaks against it, nothing when it is proved."""
    cuts = work.plan.cuts.before_packing
    return _rewritten(source, aside, cuts, work, source)


def _packed(source: Path, aside: Path, work: _Work) -> str:
    """Pack the relative relocations of the new file; return why it stays as it is, if it does."""
    whole = aside.with_name(f".{aside.name}{_ASIDE}")
    why = _rewritten(aside, whole, FileCuts(packed=True), work, source)
    if why:
        whole.unlink(missing_ok=True)
    else:
        whole.replace(aside)
    return why


def _rewritten(source: Path, aside: Path, cuts: FileCuts, work: _Work, first: Path) -> str:
    """Write a file without what is cut; return what speaks against it.

    Args:
        source: The file.
        aside: The new one.
        cuts: What goes.
        work: Whose file it is.
        first: The file before anything was done to it, which lies where it will be used.
    """
    aside.unlink(missing_ok=True)
    try:
        with Elf(source) as elf:
            write_pieces(elf.path, _laid_out(elf, cuts, work).pieces, aside)
    except FormatRefusedError as refusal:
        return str(refusal)
    except OSError as error:
        return f"it could not be written: {error}"
    problems = verify.verify_file(source, aside, cuts)
    if not problems and cuts.relocates:
        before = loader.loader_answer(first, work.library_path)
        after = loader.loader_answer(aside, work.library_path)
        if before != after:
            problems.append(f"the loader now says: {_difference(before or '', after or '')}")
    return "; ".join(problems[:5])


def _laid_out(elf: Elf, cuts: FileCuts, work: _Work) -> layout.Layout:
    if work.store is None:
        return layout.lay_out(elf, cuts)
    return layout.lay_out(elf, cuts, Store(work.store).read)


def _difference(before: str, after: str) -> str:
    known = set(before.splitlines())
    return " | ".join([line for line in after.splitlines() if line not in known][:3])


def _put(aside: Path, work: _Work) -> None:
    """Put a finished file in place: same owner, rights and time; on disk before its name is."""
    source, target = work.source / work.plan.path, work.target / work.plan.path
    new = work.plan.action == "add"
    status = (source.parent if new else source).lstat()
    _own(aside, status)
    if not new:
        shutil.copystat(source, aside)
    mtime = _NEW_FILE_TIME_NS if new else status.st_mtime_ns
    os.utime(aside, ns=(status.st_atime_ns, _epoch_ns(mtime)))
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(target)
    for name in work.plan.links:
        _name(target, work.target / name)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _epoch_ns(mtime_ns: int) -> int:
    """Return a file's time, not later than SOURCE_DATE_EPOCH where that is set (seconds)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return min(mtime_ns, int(epoch) * 10**9) if epoch.isdecimal() else mtime_ns


def write_pieces(source: Path, pieces: Sequence[Piece], target: Path) -> None:
    """Write pieces one after the other into a new file; the kernel copies, nothing is held here.

    Raises:
        OSError: The file exists, or there is no room.
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        for piece in pieces:
            if isinstance(piece.source, int):
                writer.flush()
                _copy_range(reader.fileno(), writer.fileno(), piece.source, piece.length)
            elif piece.source is not None:
                writer.write(piece.source)
            elif piece.length < PAGE:
                writer.write(bytes(piece.length))
            else:  # long runs of zeros cost no disk
                writer.seek(piece.length, os.SEEK_CUR)
        writer.truncate()


def _copy_range(reader: int, writer: int, offset: int, length: int) -> None:
    while length:
        try:
            done = os.copy_file_range(reader, writer, length, offset)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            done = os.write(writer, os.pread(reader, min(length, _COPY_CHUNK), offset))
        if not done:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        offset += done
        length -= done
