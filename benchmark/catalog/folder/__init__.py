"""A folder of labelled images, one sub-folder per class, as a data set."""
