"""Stub libraries and programs: whoever calls them is told, and goes on."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import linked
import pytest
from helpers import digest, digests
from linked import compiled

from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf, FormatRefusedError
from tfslim.slim.plan import Content, Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy
from tfslim.slim.stub.interface import Interface, read_interface, unfound_names
from tfslim.slim.stub.prove import stub_problems
from tfslim.slim.stub.write import Answer, is_stub, library_stub, program_stub
from tfslim.slim.trace import Trace

pytestmark = linked.needs_compiler

EXPLAINED = "removed by tfslim (rule x); slim with --keep y to have it"
LINE = f"tfslim: {{}} was called, but libwork was {EXPLAINED}\n"
STATUS = 16
ROUNDS = 200

ORIGINAL = """
int work_table[5] = {1, 2, 3, 4, 5};
const char work_banner[] = "banner";
__attribute__((weak)) int work_weak(void) { return 1; }
int work_run(int a, double b, void *c) { return a; }
const char *work_error_string(int a) { return "fine"; }
int work_create(void **handle) { *handle = 0; return 5; }
int work_destroy(void *handle) { return 5; }
int work_first(void) { return 1; }
int work_second(void) { return 2; }
int _ZN4work7mangledEv(void) { return 3; }
__asm__(".symver work_first, work_both@WORK_1");
__asm__(".symver work_second, work_both@@WORK_2");
static int helper(void) { return 4; }
int work_calls(void) { return helper() + work_table[2]; }
"""
VERSIONS = """
WORK_1 { global: work_run; work_error_string; work_table; work_banner; local: helper; };
WORK_2 { global: work_*; _Z*; } WORK_1;
"""
FUNCTIONS = {
    "work_both",
    "work_calls",
    "work_create",
    "work_destroy",
    "work_error_string",
    "work_first",
    "work_run",
    "work_second",
    "work_weak",
}


def answer(name: str) -> Answer:
    if "error_string" in name:
        return "text"
    if name == "work_destroy":
        return 0
    return "handle" if name == "work_create" else STATUS


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    (folder / "versions").write_text(VERSIONS)
    options = ("-Wl,-soname,libwork.so.3", f"-Wl,--version-script={folder / 'versions'}")
    return compiled(folder / "libwork.so.3", ORIGINAL, *options)


@pytest.fixture(scope="module")
def stub(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(original, tmp_path_factory.mktemp("stub") / original.name)


def interface_of(path: Path) -> Interface:
    with Elf(path) as elf:
        return read_interface(elf)


def written(original: Path, path: Path) -> Path:
    name = original.name.partition(".so")[0]
    path.write_bytes(library_stub(interface_of(original), name, EXPLAINED, answer))
    return path


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code with `library` as the library that the first argument names."""
    start = "import ctypes, sys\nlibrary = ctypes.CDLL(sys.argv[1])\n"
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_each_function_says_so_once_and_returns_not_supported(stub: Path) -> None:
    done = python("print([library.work_run(1), library.work_run(2), library.work_weak()])", stub)
    assert done.stdout == f"[{STATUS}, {STATUS}, {STATUS}]\n"
    assert done.stderr == LINE.format("work_run") + LINE.format("work_weak")
    assert done.returncode == 0


def test_texts_handles_and_success_are_given_in_silence(stub: Path) -> None:
    code = """
library.work_error_string.restype = ctypes.c_char_p
handle = ctypes.c_void_p()
print(library.work_error_string(16).decode())
print(library.work_create(ctypes.byref(handle)), bool(handle.value), library.work_create(None))
print(library.work_destroy(handle))
"""
    done = python(code, stub)
    assert done.stdout == f"libwork was {EXPLAINED}\n0 True 0\n0\n"
    assert done.stderr == ""


def test_every_name_can_be_found_and_called(stub: Path, original: Path) -> None:
    code = "for name in sys.argv[2:]: getattr(library, name)()"
    names = [e.name.decode() for e in interface_of(original).exports if e.kind == "function"]
    assert set(names) == FUNCTIONS
    done = python(code, stub, *names)
    assert done.returncode == 0
    loud = [name for name in FUNCTIONS if answer(name) == STATUS]
    assert sorted(done.stderr.splitlines()) == sorted(LINE.format(name).strip() for name in loud)


def test_what_cplusplus_left_visible_is_not_answered_for(stub: Path, original: Path) -> None:
    assert b"_ZN4work7mangledEv" in original.read_bytes()
    done = python("print(hasattr(library, '_ZN4work7mangledEv'))", stub)
    assert done.stdout == "False\n"


def test_versions_are_those_of_the_original(stub: Path, original: Path) -> None:
    assert interface_of(stub) == interface_of(original)
    code = """
libc = ctypes.CDLL(None)
libc.dlvsym.restype = ctypes.c_void_p
libc.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
for name, version in ((b"work_both", b"WORK_1"), (b"work_both", b"WORK_2"),
                      (b"work_run", b"WORK_1"), (b"work_run", b"WORK_2")):
    print(bool(libc.dlvsym(library._handle, name, version)))
"""
    for library in (original, stub):
        assert python(code, library).stdout.split() == ["True", "True", "True", "False"]


def test_a_program_linked_with_the_original_runs_with_the_stub(
    stub: Path, original: Path, tmp_path: Path
) -> None:
    """Also data that the linker copied into the program, and every name bound at the start."""
    source = """
#include <errno.h>
#include <stdio.h>
extern int work_table[5], work_run(int, double, void *), work_both(void);
int main(int count, char **words) {
  int a = count, b = count * 2, c = count * 3, d = count * 4, e = count * 5, f = count * 6;
  errno = 7;
  for (int i = 0; i < 3; i++) {
    a += work_run(a, 2.5, 0) + b;
    b += work_both() + c;
    c += d, d += e, e += f;
  }
  printf("%d %d %d %d %d %d %d %d\\n", a, b, c, d, e, f, errno, work_table[0] + work_table[4]);
  return 0;
}
"""
    for options in (["-no-pie", "-fno-pie"], ["-fPIE", "-pie"]):
        program = tmp_path / "program"
        (tmp_path / "program.c").write_text(source)
        command = ["gcc", "-O2", *options, "-o", str(program), str(tmp_path / "program.c")]
        subprocess.run([*command, str(original)], check=True)
        for library in (original, stub):
            shutil.copy2(library, tmp_path / "libwork.so.3")
            environment = {"LD_LIBRARY_PATH": str(tmp_path), "LD_BIND_NOW": "1"}
            done = subprocess.run(
                [program], env=environment, capture_output=True, text=True, check=False
            )
            numbers = [int(word) for word in done.stdout.split()]
            assert done.returncode == 0
            assert numbers[5:] == [6, 7, 6 if library is original else 0]
            if library is stub:
                assert numbers[:5] == loops(STATUS)


def loops(status: int) -> list[int]:
    a, b, c, d, e, f = range(1, 7)
    for _ in range(3):
        a, b, c, d, e = a + status + b, b + status + c, c + d, d + e, e + f
    return [a, b, c, d, e]


def test_of_many_threads_one_says_so(stub: Path) -> None:
    code = """
import threading
barrier = threading.Barrier(16)
def call():
    barrier.wait()
    assert all(library.work_run(1) == 16 for _ in range(200))
threads = [threading.Thread(target=call) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    done = python(code, stub)
    assert done.returncode == 0, done.stderr
    assert done.stderr == LINE.format("work_run")


@pytest.mark.parametrize("stream", ["os.close(2)", "os.dup2(os.open('/dev/full', 1), 2)"])
def test_without_a_place_to_write_it_still_answers(stream: str, stub: Path) -> None:
    assert python(f"import os; {stream}; print(library.work_run(1))", stub).stdout == "16\n"


def test_tools_are_content(stub: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(program_stub("tool", EXPLAINED))
    for path in (stub, program):
        done = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "Warning" not in done.stdout
    said = subprocess.run(["readelf", "-lW", stub], capture_output=True, text=True, check=True)
    (stack,) = [line for line in said.stdout.splitlines() if "GNU_STACK" in line]
    assert stack.split()[-2] == "RW"
    assert not [line for line in said.stdout.splitlines() if "RWE" in line]
    listed = subprocess.run(["ldd", "-r", stub], capture_output=True, text=True, check=False)
    assert listed.stdout.strip() == "statically linked"


def test_the_same_original_gives_the_same_stub(stub: Path, original: Path, tmp_path: Path) -> None:
    assert digest(written(original, tmp_path / "again")) == digest(stub)
    assert stub.stat().st_size < 16_000
    assert not stub_problems(original, stub)
    with Elf(stub) as elf:
        assert is_stub(elf)


def test_thousands_of_names(tmp_path: Path) -> None:
    source = "".join(f"int many_{i}(void) {{ return {i}; }}\n" for i in range(1000))
    original = compiled(tmp_path / "libmany.so", source)
    path = written(original, tmp_path / "stub.so")
    assert path.stat().st_size < 100 * 1000
    code = "for i in range(1000): assert getattr(library, f'many_{i}')() == 16"
    done = python(code, path)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1000


def test_a_library_without_a_name_or_versions(tmp_path: Path) -> None:
    original = compiled(tmp_path / "plain.so", "int plain(void) { return 1; }")
    path = written(original, tmp_path / "stub.so")
    assert not stub_problems(original, path)
    assert python("print(library.plain())", path).stdout == "16\n"


@pytest.mark.parametrize(
    "source",
    [
        "__thread int local = 3;",
        "static int one(void) { return 1; } static void *pick(void) { return one; }\n"
        'int picked(void) __attribute__((ifunc("pick")));',
        "static int nothing;",
    ],
    ids=["thread-local data", "chosen when loaded", "nothing"],
)
def test_what_nothing_can_stand_in_for_is_refused(source: str, tmp_path: Path) -> None:
    original = compiled(tmp_path / "odd.so", source)
    with pytest.raises(FormatRefusedError):
        interface_of(original)


def test_damaged_originals_are_refused_or_stood_in_for(original: Path, tmp_path: Path) -> None:
    whole, generator = original.read_bytes(), random.Random(3)
    path, made = tmp_path / "libwork.so.3", 0
    for _ in range(ROUNDS):
        data = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
        for _ in range(generator.randrange(12)):
            # Most of the tables lie in the first pages.
            data[generator.randrange(min(len(data), 3000))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            stub = library_stub(interface_of(path), "libwork", EXPLAINED, lambda _: STATUS)
        except FormatRefusedError:
            continue
        made += 1
        (tmp_path / "stub").write_bytes(stub)
        assert interface_of(tmp_path / "stub") == interface_of(path)
    assert made


# --- programs ---------------------------------------------------------------------------------


def test_a_program_says_so_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "ptxas"
    path.write_bytes(program_stub("ptxas", EXPLAINED))
    path.chmod(0o755)
    done = subprocess.run([path, "--version"], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"tfslim: ptxas was started, but it was {EXPLAINED}\n"


# --- which libraries become stubs -------------------------------------------------------------

CUDA = "venv/nvidia"
PLAIN = Trace(ops=frozenset({"MatMul", "Relu", "Conv2D"}), opened=frozenset())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries that need each other as NVIDIA's do, and a program that XLA starts."""
    tree = tmp_path_factory.mktemp("built")
    folder = tree / CUDA
    for name, needs in (
        ("libnvJitLink.so.12", ()),
        ("libcusparse.so.12", ("libnvJitLink.so.12",)),
        ("libcusolver.so.11", ("libcusparse.so.12", "libnvJitLink.so.12")),
        ("libcufft.so.11", ()),
        ("libcurand.so.10", ()),
    ):
        function = name[3:].partition(".")[0]
        options = [f"-Wl,-soname,{name}", "-Wl,--no-as-needed", *(str(folder / n) for n in needs)]
        source = f"char big[20000] = {{1}}; int {function}Create(void **h) {{ return 1; }}"
        source += f"int {function}Run(void) {{ return 1; }}"
        compiled(folder / name, source, *options)
    (folder / "bin").mkdir()
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", str(folder / "bin" / "ptxas")],
        input=b"int main(void) { return 0; }",
        check=True,
    )
    return tree


@pytest.fixture
def cuda(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "tree"))


def plan_of(
    tree: Path, trace: Trace = PLAIN, keep: tuple[str, ...] = (), profile: str = "workload"
) -> Plan:
    policy = make_policy(profile, parse_targets("90"), trace=trace, keep=keep)
    return make_plan(tree, policy, jobs=1)


def replaced(plan: Plan) -> set[str]:
    return {Path(item.path).name for item in plan.files if item.action == "replace"}


EVERYTHING = {
    "libnvJitLink.so.12",
    "libcusparse.so.12",
    "libcusolver.so.11",
    "libcufft.so.11",
    "libcurand.so.10",
    "ptxas",
}


def test_what_the_models_do_not_reach_becomes_a_stub(cuda: Path, tmp_path: Path) -> None:
    plan = plan_of(cuda)
    assert replaced(plan) == EVERYTHING
    assert "cufft: " not in "\n".join(note.why for note in plan.notes)
    outcome = apply_plan(plan, cuda, tmp_path / "out")
    assert {item.state for item in outcome.files} == {"replaced"}
    folder = tmp_path / "out" / CUDA
    done = python("print(library.cufftRun())", folder / "libcufft.so.11")
    assert done.stdout == "16\n"
    assert done.stderr == (
        "tfslim: cufftRun was called, but libcufft was removed by tfslim (rule fft); slim with "
        "--keep cufft to have it\n"
    )
    done = python("print(library.cusolverCreate(None))", folder / "libcusolver.so.11")
    assert (done.stdout, done.stderr) == ("0\n", "")
    done = subprocess.run([folder / "bin" / "ptxas"], capture_output=True, text=True, check=False)
    assert "(rule xla); slim with --keep xla to have it" in done.stderr
    assert plan_of(tmp_path / "out").files == ()  # a second run


@pytest.mark.parametrize(
    ("op", "stay"),
    [
        ("IRFFT2D", {"libcufft.so.11", "libnvJitLink.so.12"}),
        ("Cholesky", {"libcusolver.so.11", "libcusparse.so.12", "libnvJitLink.so.12"}),
        ("SparseMatrixMatMul", {"libcusparse.so.12", "libnvJitLink.so.12"}),
        ("XlaCallModule", {"libcufft.so.11", "libnvJitLink.so.12", "ptxas"}),
        ("@xla", {"ptxas"}),
    ],
)
def test_what_a_model_reaches_stays_with_all_that_it_needs(
    op: str, stay: set[str], cuda: Path
) -> None:
    plan = plan_of(cuda, PLAIN.model_copy(update={"ops": PLAIN.ops | {op}}))
    # SparseMatrixMatMul alone: nothing that stays needs cuSOLVER.
    assert replaced(plan) == EVERYTHING - stay
    assert all(note.why.startswith("stays: ") for note in plan.notes)


def test_for_models_of_any_kind_only_what_none_uses_goes(cuda: Path) -> None:
    assert replaced(plan_of(cuda, profile="inference")) == {"libcurand.so.10"}


def test_what_another_file_needs_stays_and_says_why(cuda: Path) -> None:
    needs = ["-Wl,--no-as-needed", str(cuda / CUDA / "libcusparse.so.12")]
    compiled(cuda / "other" / "libtorch.so", "int torch(void) { return 1; }", *needs)
    plan = plan_of(cuda)
    assert replaced(plan) == EVERYTHING - {"libcusparse.so.12", "libnvJitLink.so.12"}
    assert {Path(note.path).name: note.why for note in plan.notes} == {
        "libcusparse.so.12": "stays: libtorch.so needs it",
        "libnvJitLink.so.12": "stays: libcusparse.so.12 needs it",
    }


def test_what_is_kept_by_word_keeps_what_it_opens(cuda: Path) -> None:
    plan = plan_of(cuda, keep=("cufft", "xla"))
    assert replaced(plan) == EVERYTHING - {"libcufft.so.11", "libnvJitLink.so.12", "ptxas"}
    (note,) = plan.notes
    assert note.why == "stays: libcufft.so.11 opens it"


def test_where_a_file_cannot_be_read_nothing_goes(cuda: Path) -> None:
    (cuda / "odd.so").write_bytes((cuda / CUDA / "libcurand.so.10").read_bytes()[:700])
    plan = plan_of(cuda)
    assert replaced(plan) == {"ptxas"}
    assert {note.why for note in plan.notes if "curand" in note.path} == {
        "stays: odd.so cannot be read, and may need it"
    }


def test_a_library_that_nothing_stands_in_for_stays(cuda: Path) -> None:
    compiled(cuda / CUDA / "libcurand.so.10", "__thread int local = 3; int a(void) { return 1; }")
    plan = plan_of(cuda)
    assert replaced(plan) == EVERYTHING - {"libcurand.so.10"}
    assert plan.notes[0].why.startswith("stays: nothing can stand in for it: ")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda library, _: library.read_bytes(),
        lambda _, stub: stub.replace(b"libcurand.so.10", b"libcurand.so.11"),
        lambda _, stub: stub.replace(b"curandRun", b"curandRan"),
        lambda _, stub: stub[:500],
    ],
    ids=["not a stub", "another name", "another function", "cut short"],
)
def test_a_stub_that_is_not_proved_changes_nothing(
    spoil: Callable[[Path, bytes], bytes], cuda: Path, tmp_path: Path
) -> None:
    plan = plan_of(cuda)
    (item,) = [item for item in plan.files if item.path.endswith("libcurand.so.10")]
    assert item.content is not None
    data = spoil(cuda / item.path, item.content.data)
    spoiled = item.model_copy(update={"content": Content.of(data), "after": len(data)})
    before = digests(cuda)
    outcome = apply_plan(plan.model_copy(update={"files": (spoiled,)}), cuda)
    assert [one.state for one in outcome.files] == ["restored"]
    assert outcome.files[0].why
    assert digests(cuda) == before


def test_the_proof_asks_the_loaders_tables(original: Path, stub: Path, tmp_path: Path) -> None:
    """A name in the symbol table that no hash leads to cannot be found."""
    with Elf(stub) as elf:
        (section,) = [s for s in elf.sections if s.name == ".gnu.hash"]
    data = bytearray(stub.read_bytes())
    (words,) = struct.unpack_from("<I", data, section.offset + 8)
    data[section.offset + 16 : section.offset + 16 + 8 * words] = bytes(
        8 * words
    )  # the filter lets nothing pass
    (tmp_path / "stub").write_bytes(data)
    with Elf(tmp_path / "stub") as elf:
        assert unfound_names(elf, {b"work_run", b"work_both"})
    assert any("cannot be found" in why for why in stub_problems(original, tmp_path / "stub"))


def test_compilers_of_cuda_say_so_or_are_kept(cuda: Path) -> None:
    """As NVIDIA's and Debian's packages have them."""
    compilers = [cuda / "usr/local/cuda-12.4" / name for name in ("bin/nvcc", "nvvm/bin/cicc")]
    for compiler in compilers:
        compiler.parent.mkdir(parents=True)
        shutil.copy2(cuda / CUDA / "bin" / "ptxas", compiler)
    kept = plan_of(cuda, profile="inference", keep=("nvcc",))
    assert not replaced(kept) & {"nvcc", "cicc"}
    plan = plan_of(cuda, profile="inference")
    assert replaced(plan) >= {"nvcc", "cicc"}
    apply_plan(plan, cuda)
    for compiler in compilers:
        done = subprocess.run([compiler], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "(rule nvcc); slim with --keep nvcc to have it" in done.stderr
