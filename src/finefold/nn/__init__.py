"""The only rooms that know torch."""

import os

# Threads that wait must sleep, not spin: spinning, two processes on two cores slow each other down
# severalfold (`benchmarks/contention.py`). OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
