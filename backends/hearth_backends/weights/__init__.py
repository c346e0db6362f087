"""One description of a model and one reader of its tensors, whatever the file format."""
