"""Arrays of pixels and labels in memory as a data set, written once into a folder."""
