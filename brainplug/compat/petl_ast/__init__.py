"""The published code of the PETL papers on AST."""
