"""Run folders and where their results came from."""
