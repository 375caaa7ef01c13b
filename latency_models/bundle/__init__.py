"""One portable file of what was measured on a device: rows with raw samples, where they come from, and what was made of them."""
