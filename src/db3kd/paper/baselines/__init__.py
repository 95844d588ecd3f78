"""The systems that the paper compares with, one file each; all that they share is beside them."""
