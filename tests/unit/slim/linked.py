"""Libraries with many exported names and programs that use them, made with the C compiler.

Names look like those of C++ (`_Z…`), so that the rule for exported names covers them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

COUNT = 1500

needs_compiler = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no C compiler")

LIBRARY = (
    """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define NOINLINE __attribute__((noinline))
"""
    + "".join(
        f"NOINLINE int _ZN7example8functionE{n}i(int x) {{ return x * 3 + {n}; }}\n"
        f"int _ZN7example5valueE{n} = {n};\n"
        for n in range(COUNT)
    )
    + """
int _ZN7example4keptEi(int x) { return x + 41; }
int _ZN7example5arrayE[8] = {0, 1, 2, 3, 4, 5, 6, 7};
static int *inner = &_ZN7example5arrayE[5];                  /* a name and an addend */
__thread int _ZN7example5localE = 7;                          /* thread-local */
static int chosen(int x) { return x + 100; }
static void *choose(void) { return chosen; }
int _ZN7example6chosenEi(int) __attribute__((ifunc("choose")));
int _ZN7example6uniqueE = 9;
asm(".type _ZN7example6uniqueE, @gnu_unique_object");
asm(".globl _ZN7example8absoluteE\\n.set _ZN7example8absoluteE, 0x1234");
static int (*const table[])(int) = {"""
    + ", ".join(f"_ZN7example8functionE{n}i" for n in range(COUNT))
    + """};
int exports_through_plt(int x) { return """
    + " + ".join(f"_ZN7example8functionE{n}i(x)" for n in range(COUNT))
    + """; }
int exports_through_got(void) { return """
    + " + ".join(f"_ZN7example5valueE{n}" for n in range(COUNT))
    + """; }
int exports_through_table(int x) {
  int sum = *inner + _ZN7example5localE + _ZN7example6chosenEi(x) + _ZN7example6uniqueE;
  for (unsigned i = 0; i < sizeof table / sizeof *table; i++) sum += table[i](x);
  return sum;
}
int exports_through_libc(const char *s) {
  return (int)strlen(s) + atoi(s) + _ZN7example4keptEi(1) + (getpid() == getppid()) + abs(-(int)*s);
}
"""
)

PROGRAM = """
#include <stdio.h>
int _ZN7example4keptEi(int);
int exports_through_plt(int), exports_through_got(void), exports_through_table(int);
int exports_through_libc(const char *);
int main(void) {
  printf("%d %d %d %d %d\\n", exports_through_libc("123"), exports_through_plt(5),
         exports_through_got(), exports_through_table(5), _ZN7example4keptEi(1));
}
"""


def compiled(
    path: Path,
    source: str | Path,
    *options: str,
    libraries: Sequence[Path] = (),
    language: str = "c",
) -> Path:
    """Make a library, an object or (of any other name) a program from source or an object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["g++" if language == "c++" else "gcc", "-O1", "-fno-builtin", "-fPIC", "-w"]
    if path.suffix == ".o":
        command.append("-c")
    elif ".so" in path.name:
        command += ["-shared", f"-Wl,-soname,{path.name}"]
    code = source if isinstance(source, Path) else path.with_name(f"{path.name}.source")
    if isinstance(source, Path):
        command.append(str(code))
    else:
        code.write_text(source)
        command += ["-x", language, str(code), "-x", "none"]
    command += ["-o", str(path), *map(str, libraries), *options]
    folders = sorted({str(library.parent) for library in libraries})
    command += [f"-Wl,-rpath,{folder}" for folder in folders]
    subprocess.run(command, check=True)
    if not isinstance(source, Path):
        code.unlink()
    return path


def said(program: Path, **environment: str) -> str:
    """Run a program and return what it wrote."""
    done = subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
