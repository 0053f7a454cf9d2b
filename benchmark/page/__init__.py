"""Values in, HTML and figures out; imports no other wing."""
