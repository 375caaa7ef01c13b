"""A new device from a few measurements and all devices known so far, and which measurements to take."""
