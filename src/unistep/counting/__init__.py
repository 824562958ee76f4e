"""What a call of a network costs, counted without running it: operators, work, live bytes."""
