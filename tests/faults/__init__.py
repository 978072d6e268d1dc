"""What a release must survive: one fault per file, named for the fault; F1 to F42 in the docstrings. See `rig`."""
