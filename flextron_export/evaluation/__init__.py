"""How good a budget is: perplexity on a text, and scores on the tasks of lm-evaluation-harness (docs/evaluation.md)."""
