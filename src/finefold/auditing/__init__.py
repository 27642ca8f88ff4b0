"""What is wrong with the data: files, duplicates, groups, labels, shortcuts. Arrays and files in, findings out."""
