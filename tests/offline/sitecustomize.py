"""On PYTHONPATH, this guards a whole Python process: an attempt to leave the machine ends it with exit code 1."""

import offline_guard

offline_guard.watch(end_process=True)
