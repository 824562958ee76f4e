"""The command: names, defaults and help; what a command does is imported only when it is run."""
