"""ONNX graphs of nested models. `contract` says what goes in and out and needs no ONNX; the rest builds graphs."""
