"""What is shipped to a device: the manifest, the weights file, golden outputs."""
