"""The files of a run; they survive it if the process dies at any moment."""
