"""The only rooms that know torch."""

import os

# Threads that wait must sleep, not spin: with spinning, two processes on two cores slow each other down
# eightfold (measured with `benchmarks/contention.py`). Read by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
