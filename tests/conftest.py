"""Settings of every test."""

import os

# The networks of the tests gain nothing from a second thread, and on busy cores threads wait for each other:
# ten times slower. Set before torch is imported, so that the processes which tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
