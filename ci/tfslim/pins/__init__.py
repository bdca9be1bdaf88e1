"""Size-aware versions: candidates, measure, choice, gate, lock.

`locks` needs nothing but the standard library and is what the image builds use; the rest needs the
extra `pins` (a client of package indexes, uv, and a reader of symbol tables).
"""
