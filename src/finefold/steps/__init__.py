"""Verbs: one module per command, one public function, no printing."""
