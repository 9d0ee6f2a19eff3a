"""An NVIDIA Triton model repository of a bundle (docs/serving.md), and the model that Triton's Python backend runs."""
