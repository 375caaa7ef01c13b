"""The program that runs models on a device: `python3 WORKER.pyz ENGINE CPU,CPU,…`.

Sent to the device as one zip file, which holds nothing else of Paceline: it imports the standard library, numpy, the engine's
library and itself. Python 3.9 can run it.
"""
