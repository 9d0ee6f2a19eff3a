"""What the targets that run on ONNX Runtime share: sessions, where their memory lies, execution providers."""
