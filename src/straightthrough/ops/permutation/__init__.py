"""Orders of a row: ranks, permutations, assignments."""
