"""The Docker engine: the one a machine has, or a private one; the one seam to it."""
