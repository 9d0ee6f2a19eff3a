"""Running a bundle on a device: calibration, selection, KV cache, sampling, tokenizer. Needs only numpy, tokenizers."""
