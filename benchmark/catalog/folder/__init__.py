"""A folder of images, one sub-folder a class, as a data set."""
