"""Where everything costly goes the moment it exists: measurements, devices, their log, and the results of a run's steps.

SQLite in a file by default, safe with several processes on one host; PostgreSQL by URL for farms.
"""

from paceline.store.results import Results
from paceline.store.rows import Event
from paceline.store.store import Store

__all__ = ["Event", "Results", "Store"]
