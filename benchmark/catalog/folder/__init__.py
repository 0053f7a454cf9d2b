"""A folder of labelled images as a data set: labels from sub-folders or from a table."""
