"""What a run does: the stages. `table` lists them all."""
