"""The native backend: TensorFlow's C API through ctypes, without TensorFlow's Python files.

What runs is `libtensorflow_cc.so.2`, the library that the Python package uses too. Nothing here
imports tensorflow or protobuf.
"""
