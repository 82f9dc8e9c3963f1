"""The nearest of K codewords, and codes without a table."""
