"""finefold fine-tunes pretrained image classifiers and tells you the truth about them."""

__version__ = "0.1.0"
