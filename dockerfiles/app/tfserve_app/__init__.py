"""A small HTTP service for TensorFlow SavedModels: start it with `python -m tfserve_app`."""
