"""A page about a bundle for people (docs/command-line.md)."""
