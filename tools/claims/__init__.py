"""The runs, tables and plots of `tools/reproduce_claims.py`."""
