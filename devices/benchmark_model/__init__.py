"""TFLite's native `benchmark_model`, the classic tool and LiteRT's of the same name: its flags, and what its output says."""
