"""What a solver returns for the parameters of its problem."""
