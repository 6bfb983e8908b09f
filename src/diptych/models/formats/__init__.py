"""Other libraries' files: which format a file has, and how its weights map to ours."""
