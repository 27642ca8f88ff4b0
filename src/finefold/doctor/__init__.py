"""Is this pipeline telling the truth? Do labels belong to their images, is anything learned, do training and test agree."""
