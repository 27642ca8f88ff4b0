"""Where work runs: here, in several processes side by side."""
