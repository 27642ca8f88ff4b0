"""Is this pipeline telling the truth? Labels against images, what is learned, training against test."""
