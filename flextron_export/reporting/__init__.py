"""A page about a bundle for people (docs/report.md)."""
