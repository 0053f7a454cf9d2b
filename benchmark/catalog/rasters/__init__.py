"""The user's own imagery with label rasters or polygons, as windows of scenes."""
