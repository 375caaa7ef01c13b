"""What an operator costs alone: from its row, from rows of similar operators, or from a regression on its shape."""
