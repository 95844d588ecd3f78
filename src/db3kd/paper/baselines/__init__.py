"""The systems that the paper compares with, one file each; a signature tells what it sees."""
