"""What the targets `tensorrt-rtx` and `tensorrt` share: nearly everything, as the two libraries have nearly one API.

`flavour` holds the differences, `profiles` and `binding` are pure functions, `builder` compiles, `record` keeps and
checks what was compiled, `session` runs it, `target` puts them together.
"""
