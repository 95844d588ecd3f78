"""What a run writes down; everything survives the death of the process at any moment."""
