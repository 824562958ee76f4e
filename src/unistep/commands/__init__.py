"""What the commands of `unistep.cli` do: imported only when the command is run, so that help stays quick."""
