"""What a nested model is: widths, budgets, the checkpoint that stores them, and sub-networks as prefixes."""
