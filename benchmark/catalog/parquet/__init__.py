"""Data sets of the Hugging Face hub: labelled images in Parquet shards."""
