"""What is wrong with the data: files, duplicates, groups, labels, shortcuts; no torch."""
