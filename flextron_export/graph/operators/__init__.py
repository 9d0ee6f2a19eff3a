"""Operators of our own, in the ONNX domain `flextron`: one module each, with the NumPy reference that defines it."""
