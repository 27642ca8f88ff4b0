"""Parse, call one step, print."""
