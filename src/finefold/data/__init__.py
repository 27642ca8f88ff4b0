"""Nouns: label spaces, samples, images, splits, predictions. Knows nothing of torch."""
