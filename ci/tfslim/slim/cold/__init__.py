"""Host code that models rarely run, kept compressed beside its library and brought back on touch.

`punch` takes the code out of the library's file, `sidefile` keeps it, `runtime.c` brings it back,
`touched` finds out which of it models run, and `apply` does all of that on a tree.
"""
