"""Machine code made ahead of time from PTX that the driver would compile at first use.

`wanted` says which, `ptxas` compiles, `store` keeps, `compiling` does it for a tree, `entry` packs
it as NVIDIA's tools do, `place` finds room for it. docs/aot.md draws it.
"""
