"""One command that proves the kernels on the GPU at hand: `python -m tools.gpu_check OUT`. See `__main__.py`."""
