"""The folder of a data set of rasters: on this machine, on a web server or in a bucket."""
