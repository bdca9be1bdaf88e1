"""The proof on hardware: what `benchmarks/gpu/prove.py` is made of."""
