"""What a runtime makes of a network's operators: which it runs as one, which it leaves, what starting and handing over cost."""
