"""Results of runs: schema, statistics, tables, plots, pages."""
