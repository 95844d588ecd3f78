"""The systems that the paper compares with, one file each; its signature says what it may see."""
