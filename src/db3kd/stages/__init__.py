"""What a run does, one stage a file; `table` lists them all."""
